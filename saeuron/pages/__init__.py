"""HTML pages and pictures for people. Each page is one file without scripts.

document.py  HTML from templates: filters, embedded pictures
contents.py  what the page of an SAE is made of, as records
sae.py       the page of an SAE
plots.py     plots as SVG
sheet.py     one latent as a PNG
pictures.py  contact sheets and score plots as PNG
cards.py     model cards of published SAEs and removals

The HTML lies in templates/: `base.html` and `style.css` are of every page, `parts.html` holds tables and tiles, and
each page has a file of its own that extends the base: `sae.html`.
"""
