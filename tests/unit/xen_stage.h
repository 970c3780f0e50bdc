/* xen_stage.h - what tests of that which calls xl put up: a directory of their own, with what is to be found as xl
 *
 * What cannot be done fails the test.
 */
#ifndef XEN_STAGE_H
#define XEN_STAGE_H

void stage_file(const char *path, const char *text);
/* Makes it of this mkdtemp() template; the first in $PATH from now on. */
void stage_dir(char *dir);
/* The same, with this script as xl. */
void stage_xl(char *dir, const char *script);
/* The same, with the xl of tests/lib/fake_xl.py, whose domains are in a directory below, and to which a guest "web1" is `create`;
 * conf: that guest's file, helper: what restores it. stage_fake_xl_end() removes all of it. */
struct stage_fake_xl {
	char domains[64], conf[64], helper[512];
};
void stage_fake_xl(char *dir, const char *conf, const char *create, struct stage_fake_xl *ret);
void stage_create(const struct stage_fake_xl *s, const char *create);
int stage_fake_xl_end(const char *dir);
/* Removes what stage_xl() made, and the notes that sending this domain leaves there. -1: there is more. */
int stage_xl_end(const char *dir, const char *domain);

#endif
