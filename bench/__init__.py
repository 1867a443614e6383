"""The bundled benchmark harness, shipped as `trio_pool.bench`."""
