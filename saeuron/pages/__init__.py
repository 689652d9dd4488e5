"""HTML pages and pictures for people. A page that is written is one file without scripts.

document.py  HTML from templates: filters, embedded pictures
contents.py  the contents of an SAE's page, as records
sae.py       the page of an SAE
report.py    the report of a run, one file
removals.py  what is shown of a removal, as records
plots.py     plots as SVG
dots.py      plots of figures with their intervals
curves.py    line plots as PNG
heat.py      heat maps as PNG
grid.py      pictures in rows and columns as PNG
sheet.py     one latent as a PNG
pictures.py  contact sheets and score plots as PNG
cards.py     model cards of published SAEs and removals

The HTML is in templates/: all pages use `base.html` and `style.css`, `parts.html` holds tables and tiles, and each page
has a file that extends the base: `sae.html`, `report.html`. `removal_parts.html` shows a removal.
"""
