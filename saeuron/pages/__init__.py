"""HTML pages and pictures for people. Each page is one file without scripts.

document.py  the frame of a page: style, tables, embedded pictures
contents.py  what the page of an SAE is made of, as records
sae.py       the page of an SAE
plots.py     plots as SVG
sheet.py     one latent as a PNG
pictures.py  contact sheets and score plots as PNG
cards.py     model cards of published SAEs and removals
"""
