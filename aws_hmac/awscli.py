"""Plug-in of the AWS CLI: commands of a profile with an ``aws_hmac`` block are signed by the device.

In ``~/.aws/config``, once for all profiles::

    [plugins]
    aws_hmac = aws_hmac.awscli

Version 1 finds it where it is installed itself (``pip install awscli aws-hmac``). Version 2 also needs the line
``cli_legacy_plugin_path = <folder>`` in that section: the ``site-packages`` folder that ``pip install aws-hmac``
installed into. It brings its own botocore.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from typing import Any

BLOCK = "aws_hmac"
"""As `aws_hmac.profile` has it; not imported for profiles without one."""


def awscli_initialize(event_hooks: Any) -> None:
    """Is called by the AWS CLI when it loads its plug-ins."""
    event_hooks.register("session-initialized", install)


def install(session: Any, **_: object) -> None:
    """Handles ``session-initialized``: gives the command's session the key of its profile, if it has one."""
    name = session.profile or "default"
    if BLOCK not in session.full_config["profiles"].get(name, {}):
        return
    if not any(hasattr(finder, "find_distributions") for finder in sys.meta_path):
        # Version 2 replaces the finder that tells what is installed, our backends among it.
        sys.meta_path.append(PathFinder)
    from aws_hmac._botocore import install_session

    install_session(session)
