"""From PgBouncer's configuration to ours: what is behind `trio-pool import-pgbouncer`.

Texts in, text out: `ini`, `userlist` and `hba` read PgBouncer's files, `translate` makes a `document` of them
that says for each setting what became of it, `spell` writes that as TOML. Files are read by whoever is asked
through `files.Files`. What PgBouncer has and what it is called here is one table, `settings`, from which
`docs/migration.md` is made too.

It must never know a running trio-pool, nor PgBouncer but by its files.
"""

from __future__ import annotations

from trio_pool.migration.files import Directory, Files
from trio_pool.migration.problems import CannotImport, ImportProblem
from trio_pool.migration.spell import spell
from trio_pool.migration.translate import Translation, translate

__all__ = ["CannotImport", "Directory", "Files", "ImportProblem", "Translation", "spell", "translate"]
