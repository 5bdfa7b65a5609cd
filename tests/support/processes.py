"""Programs that tests start."""

import subprocess


def run(*command, **options):
    """What it printed; it must end without an error."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
