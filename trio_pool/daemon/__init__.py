"""Composition: builds everything from a configuration and runs it under one nursery tree."""
