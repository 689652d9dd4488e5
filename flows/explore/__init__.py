"""The report, and the explorer in a browser.

report.py   what a report is of, the commands that it names, and whether its figures hold
serving.py  the socket, the token, the address that is printed
app.py      the explorer: its routes put together, and errors as a page
guards.py   who may ask: Host, Origin, the token
shelves.py  the workspace as pages see it, read again when it has changed
pages.py    pages of concepts, latents, SAEs and runs
trying.py   pictures on request
queries.py  SQL
"""
