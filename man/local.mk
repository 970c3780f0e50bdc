# man
dist_man_MANS += man/replicad-fault.7 man/replicad-mover.8
dist_man_MANS += man/replicad-keeper.8
dist_man_MANS += man/replicad-trace.7
dist_man_MANS += man/replicad.conf.5
dist_man_MANS += man/replicad-link.7 man/replicad-protocol.7
dist_man_MANS += man/replicad-security.7
dist_man_MANS += man/replicad-doctor.8 man/replicad-qemu-args.8 man/replicad-qemu.7
dist_man_MANS += man/replicad-attach.8
dist_man_MANS += man/replicad-restore.8 man/replicad-receive.8
dist_man_MANS += man/replicad-xen-restore.8 man/replicad-xen-helper.8
