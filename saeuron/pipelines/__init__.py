"""Diffusion pipelines.

loading.py  load a pipeline; identify a model by its content
"""
