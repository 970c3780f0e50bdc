#!/bin/sh
# Make configure and the Makefile.in files from configure.ac and Makefile.am.
set -e
cd "$(dirname "$0")"
exec autoreconf --install --force --warnings=all
