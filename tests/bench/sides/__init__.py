"""One program for each competitor: `python SIDE.py WORKLOAD SIZE FOLDER` does the work and prints its figures as JSON."""
