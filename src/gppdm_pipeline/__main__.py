"""`python -m gppdm_pipeline [run]`: `kedro run` for this package, with the same options.

The configuration is the folder `conf` of the project that the command runs in, or of the current
directory, or what --conf-source names. Started by torchrun, rank 0 runs it, and the other ranks
share its trainings.
"""

import sys

from kedro.framework.project import configure_project

from gppdm_pipeline.algorithm.team import RankError
from gppdm_pipeline.cli import run
from gppdm_pipeline.methods import ranks


def main() -> None:
    """Run the default pipeline."""
    try:
        team = ranks.join()
    except RankError as error:
        sys.exit(f"Error: {error}")
    if team.rank:
        ranks.serve(team)
        return
    configure_project("gppdm_pipeline")
    words = sys.argv[1:]
    try:
        run(words[1:] if words[:1] == ["run"] else words, prog_name="python -m gppdm_pipeline")
    except SystemExit as end:
        if not end.code:
            ranks.dismiss()
        raise


if __name__ == "__main__":
    main()
