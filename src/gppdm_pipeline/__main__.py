"""`python -m gppdm_pipeline`: `kedro run` for this package, with the same options.

The configuration is the folder `conf` of the project that the command runs in, or of the current
directory, or what --conf-source names.
"""

from kedro.framework.project import configure_project

from gppdm_pipeline.cli import run


def main() -> None:
    """Run the default pipeline."""
    configure_project("gppdm_pipeline")
    run(prog_name="python -m gppdm_pipeline")


if __name__ == "__main__":
    main()
