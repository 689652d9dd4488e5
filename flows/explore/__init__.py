"""What people look at: the report, and the explorer in a browser.

report.py  what a report is of, the commands that it names, and whether its figures hold
"""
