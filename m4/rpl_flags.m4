# RPL_PROBE_CFLAGS(VARIABLE, FLAGS): append to VARIABLE each flag that this compiler takes.
# -Werror is on during the probe: clang only warns about a flag it does not know.
AC_DEFUN([RPL_PROBE_CFLAGS], [
for rpl_flag in $2; do
  AC_MSG_CHECKING([whether $CC accepts $rpl_flag])
  rpl_saved_CFLAGS=$CFLAGS
  CFLAGS="$CFLAGS -Werror $rpl_flag"
  AC_COMPILE_IFELSE([AC_LANG_PROGRAM([], [])],
    [AC_MSG_RESULT([yes]); $1="$$1 $rpl_flag"],
    [AC_MSG_RESULT([no])])
  CFLAGS=$rpl_saved_CFLAGS
done])

# RPL_PROBE_LDFLAGS(VARIABLE, FLAGS): the same for the linker.
AC_DEFUN([RPL_PROBE_LDFLAGS], [
for rpl_flag in $2; do
  AC_MSG_CHECKING([whether the linker accepts $rpl_flag])
  rpl_saved_LDFLAGS=$LDFLAGS
  LDFLAGS="$LDFLAGS $rpl_flag"
  AC_LINK_IFELSE([AC_LANG_PROGRAM([], [])],
    [AC_MSG_RESULT([yes]); $1="$$1 $rpl_flag"],
    [AC_MSG_RESULT([no])])
  LDFLAGS=$rpl_saved_LDFLAGS
done])
