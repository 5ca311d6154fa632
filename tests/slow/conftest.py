from tests.reference.runs import configured, empty_database, project  # noqa: F401 (fixtures)
