# Examples, and what an installation gives to systemd. An example never becomes the configuration by itself.
examplesdir = $(docdir)/examples
dist_examples_DATA = conf/replicad.conf conf/example-vm.conf
sysusersdir = $(prefix)/lib/sysusers.d
sysusers_DATA = conf/replicad-sysusers.conf
systemunitdir = $(prefix)/lib/systemd/system
systemunit_DATA = conf/replicad.service conf/replicad-relay@.service
EXTRA_DIST += conf/replicad.sysusers conf/replicad.service.in conf/replicad-relay@.service.in
CLEANFILES += conf/replicad.service conf/replicad-relay@.service conf/replicad-sysusers.conf

conf/replicad.service: $(top_srcdir)/conf/replicad.service.in Makefile
	$(AM_V_GEN)$(MKDIR_P) conf && $(SED) 's|@bindir[@]|$(bindir)|g' $(top_srcdir)/conf/replicad.service.in >$@
conf/replicad-relay@.service: $(top_srcdir)/conf/replicad-relay@.service.in Makefile
	$(AM_V_GEN)$(MKDIR_P) conf && $(SED) -e 's|@pkglibexecdir[@]|$(pkglibexecdir)|g' -e 's|@sysconfdir[@]|$(sysconfdir)|g' \
		$(top_srcdir)/conf/replicad-relay@.service.in >$@
conf/replicad-sysusers.conf: $(top_srcdir)/conf/replicad.sysusers
	$(AM_V_GEN)$(MKDIR_P) conf && cp $(top_srcdir)/conf/replicad.sysusers $@
