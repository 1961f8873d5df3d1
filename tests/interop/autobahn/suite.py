"""Starts the Autobahn suite, on Python 2.7. Arguments: as those of wstest."""

import os
import site
import sys

site.addsitedir(os.environ["PYTHONPATH"])

import txaio

txaio.use_twisted()

from autobahntestsuite import wstest

sys.exit(wstest.run())
