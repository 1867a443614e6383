"""What is served over HTTP: metrics, health and the status page. It reads the census, and nothing depends on
it.
"""
