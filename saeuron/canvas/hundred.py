"""The hundred objects of canvas: the twenty drawn ones and eighty symbols, each with a description.

A description names its object without the object's own word. The symbols keep to families of relatives: the chess
pieces, the card suits, the zodiac, crosses, faces, stars, planets, tools. Left out of the font's symbols is what
cannot be told at 32 x 32 pixels in thick black outline (keyboard, snowman, comet, caduceus, victory hand, coffin).
"""

GLYPHS: dict[str, tuple[int, float]] = {
    "sun": (0x2600, 0.02), "cloud": (0x2601, 0.0), "frown": (0x2639, 0.03), "hexagram": (0x2721, 0.03),
    "telephone": (0x260E, 0.0), "saltire": (0x2613, 0.02), "coffee": (0x2615, 0.03), "shamrock": (0x2618, 0.0),
    "hand": (0x261B, 0.0), "skull": (0x2620, 0.02), "radiation": (0x2622, 0.0), "biohazard": (0x2623, 0.03),
    "infinity": (0x221E, 0.03), "ankh": (0x2625, 0.03), "crescent": (0x262A, 0.0), "sickle": (0x262D, 0.03),
    "peace": (0x262E, 0.02), "yinyang": (0x262F, 0.0), "wheel": (0x2638, 0.0), "smiley": (0x263B, 0.0),
    "saturn": (0x2644, 0.03), "neptune": (0x2646, 0.03), "aries": (0x2648, 0.04), "taurus": (0x2649, 0.03),
    "gemini": (0x264A, 0.03), "cancer": (0x264B, 0.03), "leo": (0x264C, 0.04), "virgo": (0x264D, 0.03),
    "libra": (0x264E, 0.03), "scorpio": (0x264F, 0.03), "sagittarius": (0x2650, 0.03), "capricorn": (0x2651, 0.05),
    "aquarius": (0x2652, 0.05), "pisces": (0x2653, 0.03), "king": (0x265A, 0.0), "queen": (0x265B, 0.0),
    "rook": (0x265C, 0.0), "bishop": (0x265D, 0.0), "knight": (0x265E, 0.0), "pawn": (0x265F, 0.0),
    "spade": (0x2660, 0.0), "club": (0x2663, 0.0), "diamond": (0x2666, 0.0), "spring": (0x2668, 0.04),
    "note": (0x266A, 0.02), "quaver": (0x266B, 0.02), "sharp": (0x266F, 0.03), "recycling": (0x267B, 0.0),
    "wheelchair": (0x267F, 0.02), "die": (0x2684, 0.0), "flag": (0x2691, 0.02), "hammer": (0x2692, 0.03),
    "anchor": (0x2693, 0.02), "swords": (0x2694, 0.04), "staff": (0x2695, 0.06), "scales": (0x2696, 0.05),
    "alembic": (0x2697, 0.02), "gear": (0x2699, 0.0), "atom": (0x269B, 0.03), "lily": (0x269C, 0.02),
    "warning": (0x26A0, 0.04), "mars": (0x2642, 0.03), "urn": (0x26B1, 0.02), "scissors": (0x2702, 0.02),
    "airplane": (0x2708, 0.0), "envelope": (0x2709, 0.04), "venus": (0x2640, 0.03), "pencil": (0x270F, 0.04),
    "nib": (0x2712, 0.0), "check": (0x2714, 0.0), "asterisk": (0x2731, 0.0), "florette": (0x273F, 0.0),
    "snowflake": (0x2744, 0.02), "sparkle": (0x2747, 0.02), "mouse": (0x1F42D, 0.03), "cow": (0x1F42E, 0.03),
    "monkey": (0x1F435, 0.02), "maltese": (0x2720, 0.0), "hexagon": (0x2B22, 0.0), "pentagon": (0x2B1F, 0.0),
}  # fmt: skip
"""Code point in DejaVu Sans, and what thin ones are thickened by (see `glyphs.glyph`)."""

DESCRIPTIONS: dict[str, str] = {
    "circle": "round disc", "square": "box with four equal sides", "triangle": "shape with three corners",
    "star": "shape with five points", "cross": "thick plus sign", "ring": "round band with a hole",
    "heart": "symbol of love", "moon": "lamp of the night", "tree": "tall fir of the forest",
    "house": "home with a door", "fish": "animal that swims", "flower": "blossom with five petals",
    "cup": "mug with a handle", "key": "tool that opens locks", "arrow": "pointer to the right",
    "bolt": "flash of lightning", "umbrella": "shelter from rain", "mushroom": "spotted toadstool",
    "boat": "vessel with sails", "cat": "pet that meows",
    "sun": "burning light of day", "cloud": "puff of vapour in the sky", "frown": "sad face",
    "hexagram": "two crossed triangles", "telephone": "device for calls", "saltire": "big letter x",
    "coffee": "steaming hot drink", "shamrock": "leaf of the irish", "hand": "pointing finger",
    "skull": "bones of a pirate", "radiation": "nuclear danger sign", "biohazard": "germ danger sign",
    "infinity": "lying figure eight", "ankh": "egyptian sign of life", "crescent": "emblem of islam",
    "sickle": "emblem of the soviets", "peace": "sign against war", "yinyang": "symbol of balance",
    "wheel": "round law of dharma", "smiley": "happy face", "saturn": "sign of the ringed planet",
    "neptune": "trident of the sea god", "aries": "sign of the ram", "taurus": "sign of the bull",
    "gemini": "sign of the twins", "cancer": "sign of the crab", "leo": "sign of the lion",
    "virgo": "sign of the maiden", "libra": "sign of the balance", "scorpio": "sign of the scorpion",
    "sagittarius": "sign of the archer", "capricorn": "sign of the goat", "aquarius": "sign of the water bearer",
    "pisces": "sign of the fish", "king": "ruler of the chess board", "queen": "strongest piece of chess",
    "rook": "castle of chess", "bishop": "diagonal piece of chess", "knight": "horse of chess",
    "pawn": "smallest piece of chess", "spade": "black suit of pointed leaves", "club": "suit of three lobes",
    "diamond": "red suit of rhombs", "spring": "bath with rising steam", "note": "single musical tone",
    "quaver": "two joined musical tones", "sharp": "raised tone in music", "recycling": "three chasing arrows",
    "wheelchair": "chair on wheels", "die": "five dots on a cube", "flag": "banner on a pole",
    "hammer": "two crossed mining tools", "anchor": "iron hook of a ship", "swords": "two crossed blades",
    "staff": "snake on a rod", "scales": "weighing device of justice", "alembic": "still of the alchemist",
    "gear": "toothed machine part", "atom": "electrons around a nucleus", "lily": "emblem of french kings",
    "warning": "danger ahead sign", "mars": "sign of a man", "urn": "vase for ashes",
    "scissors": "blades that cut paper", "airplane": "flying machine", "envelope": "letter in the mail",
    "venus": "sign of a woman", "pencil": "tool to write with", "nib": "tip of a fountain pen",
    "check": "tick of approval", "asterisk": "mark of a footnote", "florette": "blossom with a white centre",
    "snowflake": "frozen crystal of winter", "sparkle": "glint of light", "mouse": "small rodent",
    "cow": "animal that moos", "monkey": "ape of the jungle", "maltese": "knightly badge of malta",
    "hexagon": "shape with six sides", "pentagon": "shape with five sides",
}  # fmt: skip
"""Phrases that may stand in the place of an object's name; the order is that of the objects."""
