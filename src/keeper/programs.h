/* programs.h - where our other programs are: beside this one */
#ifndef KEEPER_PROGRAMS_H
#define KEEPER_PROGRAMS_H

#include <limits.h>

#define PROGRAM_MOVER "replicad-mover"
#define PROGRAM_ATTACH "replicad-attach"
#define PROGRAM_XEN_RESTORE "replicad-xen-restore"

/* Write the program's path to `ret`; returns `ret`. */
const char *program_path(const char *name, char ret[PATH_MAX]);

#endif
