# man
dist_man_MANS += man/replicad-fault.7
