"""Tests of the parts that need no Ray: `python3 -m unittest discover --start-directory tests --top-level-directory .`"""
