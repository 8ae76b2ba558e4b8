import sys

from firepot.cli import main

sys.exit(main())
