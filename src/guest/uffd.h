/* uffd.h - arm and disarm asynchronous write tracking of another process's RAM mapping, through its userfaultfd */
#ifndef RPL_GUEST_UFFD_H
#define RPL_GUEST_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <replicad/err.h>

/* Has this kernel PAGEMAP_SCAN and asynchronous write protection (Linux 6.7)? */
bool uffd_kernel_can(void);
/* Negotiate the features; once per userfaultfd. -EOPNOTSUPP if the kernel lacks one. */
int uffd_api(int uffd, struct rpl_err *err);
/* Put [vaddr, vaddr + bytes) under this userfaultfd; again does no harm. -EBUSY: another one has it. */
int uffd_register(int uffd, uint64_t vaddr, uint64_t bytes, struct rpl_err *err);
/* Register, and start with an empty dirty set: a walk over all of the range. */
int uffd_arm(int uffd, int pagemap, uint64_t vaddr, uint64_t bytes, struct rpl_err *err);
int uffd_disarm(int uffd, uint64_t vaddr, uint64_t bytes, struct rpl_err *err);

/* What the attach helper answers on its standard input, with descriptors {userfaultfd, pagemap} if r is 0. */
#define UFFD_ANSWER_MAGIC 0x72706c41 /* "rplA" */
struct uffd_answer {
	uint32_t magic;
	int32_t r;
	struct rpl_err err;
};

#endif
