"""Runs on a schedule, through a Prefect server.

deployments.py  put the deployments of prefect.yaml on a server
scheduled.py    the flows that deployments run
forms.py        their parameters, which Prefect's page shows as forms
notify.py       post a failed run to SAEURON_NOTIFY_URL
"""
