from tests.reference.runs import empty_database, project  # noqa: F401 (fixtures)
