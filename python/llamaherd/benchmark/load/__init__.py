"""Requests, their arrival and what is measured of them."""
