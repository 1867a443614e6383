"""The bytes of PostgreSQL's protocol: tags, framing, and the messages that a pooler reads or writes."""
