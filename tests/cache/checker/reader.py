"""Who reads, under one identity after the other, until the run ends."""

from __future__ import annotations

import attrs

from tests.cache.checker.reads import FAMILIES, OUTPUTS, PATHS, STYLES, ZONES, Question
from tests.cache.checker.schema import ANN, BEN, NOSY
from tests.cache.checker.speaking import Gone, Speaker
from tests.support import requests
from tests.support.target import USER


@attrs.define(eq=False)
class Reader(Speaker):
    """Asks, under one identity after the other."""

    async def run(self) -> None:
        while True:
            try:
                await self.log_in()
                async with self.peer:
                    while True:
                        await self._step()
            except Gone as gone:
                self.common.errors[f"reader gone: {gone}"] += 1

    async def _step(self) -> None:
        chance = self.random.random()
        if chance < 0.006:
            await self._change()
        elif chance < 0.0061 and self.who.who == USER:
            await self._temporary()
        elif chance < 0.0065:
            await self.peer.send(requests.query("SELECT cell, slowly(v) FROM plain WHERE id = 1"))
            self.peer.close()
            raise Gone("by itself")
        elif chance < 0.012:
            await self._in_block()
        elif chance < 0.03:
            await self.ask(self.question(self.random.choice(list(FAMILIES))))
        elif chance < 0.15:
            question = Question(self.common.ledger, FAMILIES["still"][0], 1, self.who)
            await self.ask(question, way="simple")
        else:
            question, way = self.popular_question()
            await self.ask(question, way=way)

    async def _in_block(self) -> None:
        assert not (await self.query("BEGIN")).error
        for _ in range(2):
            question = self.question(self.random.choice(["plain", "owner", "parts"]))
            await self.ask(question)
            if question.who.who == NOSY:
                break
        await self.query("COMMIT")

    async def _change(self) -> None:
        """Become somebody else, or see things otherwise."""
        who = self.who
        name, field, values = self.random.choice(
            [
                ("TimeZone", "zone", ZONES),
                ("DateStyle", "style", STYLES),
                ("bytea_output", "output", OUTPUTS),
                ("search_path", "path", PATHS),
                ("role", "role", ("", ANN, BEN, NOSY)),
            ]
        )
        if field == "role" and who.user != USER:
            return
        value = self.random.choice(values)
        spelled = value if field in ("path", "role") else f"'{value}'"
        if field == "role":
            statement = f"SET ROLE {value or 'NONE'}"
        elif self.random.random() < 0.3:
            statement = f"SELECT set_config('{name}', '{value}', false)"
        else:
            statement = f"SET {name} = {spelled}"
        if self.random.random() < 0.2:
            await self.query("BEGIN")
            assert not (await self.query(statement)).error
            await self.query("ROLLBACK")
            self.who = attrs.evolve(who, by=f"{who.by}; ({statement})"[-200:])
            return
        group = await self.query(statement)
        assert not group.error, group
        self.who = attrs.evolve(who, **{field: value}, by=f"{who.by}; {statement}"[-200:])

    async def _temporary(self) -> None:
        """A temporary table hides another."""
        await self.query("CREATE TEMP TABLE plain AS SELECT 1 AS id, 'plain/1'::text AS cell, -1 AS v")
        group = await self.query("SELECT cell, v FROM plain WHERE id = 1")
        if group.rows != [["plain/1", "-1"]]:
            self.common.ledger.violation(f"FOREIGN: a temporary table does not hide another: {group}")
        await self.query("DROP TABLE pg_temp.plain")
