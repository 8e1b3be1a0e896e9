"""Requests, their arrival times and their measurements."""
