"""Real parts for the tests: certificates, targets, the pooler as a subprocess, drivers."""
