/* xen_layout.c - a Xen guest's layout: regions, type table, its line in the definition; pure */
#include <replicad/xen.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- layout */

static uint64_t table_pages(uint64_t guest_pages)
{
	return (guest_pages + RPL_PAGE_SIZE - 1) / RPL_PAGE_SIZE;
}

bool rpl_xen_layout_add_types(struct rpl_ram_layout *l)
{
	return rpl_layout_add(l, l->pfn_limit, table_pages(l->pages), l->pages);
}

bool rpl_xen_layout_check(const struct rpl_ram_layout *l, struct rpl_err *err)
{
	uint64_t at = 0;

	if (!rpl_layout_check(l, err))
		return false;
	if (l->count < 2) {
		(void)rpl_fail(err, -EINVAL, "RAM layout of a Xen guest: %u region, needs the guest's and the type table", l->count);
		return false;
	}
	for (uint32_t i = 0; i < l->count; i++) {
		if (l->region[i].file_page != at) {
			(void)rpl_fail(err, -EINVAL, "RAM layout of a Xen guest: region %u at file page %" PRIu64 ", expected %" PRIu64,
				       i, l->region[i].file_page, at);
			return false;
		}
		at += l->region[i].pages;
	}
	if (l->region[l->count - 1].pages != table_pages(rpl_xen_guest_pages(l))) {
		(void)rpl_fail(err, -EINVAL, "RAM layout of a Xen guest: type table of %" PRIu64 " pages, expected %" PRIu64,
			       l->region[l->count - 1].pages, table_pages(rpl_xen_guest_pages(l)));
		return false;
	}
	return true;
}

bool rpl_xen_layout_text(const struct rpl_ram_layout *l, char *buf, size_t size)
{
	size_t at = 0;

	for (uint32_t i = 0; i + 1 < l->count; i++) {
		int n = snprintf(buf + at, size - at, "%s0x%" PRIx64 "+0x%" PRIx64, i ? "," : "", l->region[i].pfn,
				 l->region[i].pages);

		if (n < 0 || (size_t)n >= size - at)
			return false;
		at += (size_t)n;
	}
	return at > 0;
}

bool rpl_xen_definition_get(const char *definition, const char *key, char *buf, size_t size)
{
	size_t n = strlen(key);

	for (const char *line = definition, *end; *line; line = *end ? end + 1 : end) {
		end = strchrnul(line, '\n');
		if (strncmp(line, key, n) != 0 || line[n] != '=')
			continue;
		line += n + 1;
		if ((size_t)(end - line) >= size)
			return false;
		memcpy(buf, line, (size_t)(end - line));
		buf[end - line] = '\0';
		return true;
	}
	return false;
}

int rpl_xen_definition_layout(const char *definition, struct rpl_ram_layout *ret, struct rpl_err *err)
{
	char text[RPL_XEN_LAYOUT_TEXT];
	struct rpl_ram_layout l = { 0 };
	const char *p = text;
	bool more;

	if (!rpl_xen_definition_get(definition, RPL_XEN_KEY_LAYOUT, text, sizeof(text)))
		return rpl_fail(err, -EBADMSG, "definition: it has no usable line '" RPL_XEN_KEY_LAYOUT "'");
	do {
		unsigned long long pfn, pages;
		char *end;

		errno = 0;
		pfn = strtoull(p, &end, 16);
		if (end == p || *end != '+' || errno)
			return rpl_fail(err, -EBADMSG, "definition: layout '%s': FIRST+PAGES expected", text);
		p = end + 1;
		pages = strtoull(p, &end, 16);
		if (end == p || (*end != ',' && *end) || errno || !rpl_layout_add(&l, pfn, pages, l.pages))
			return rpl_fail(err, -EBADMSG, "definition: layout '%s': region %u is malformed, out of order or too large",
					text, l.count);
		more = *end;
		p = end + 1;
	} while (more);
	if (!rpl_xen_layout_add_types(&l))
		return rpl_fail(err, -EBADMSG, "definition: layout '%s': %u regions leave no room for the type table", text, l.count);
	*ret = l;
	return 0;
}

int rpl_xen_definition_rings(const char *definition, const struct rpl_ram_layout *l, uint64_t ret[2], struct rpl_err *err)
{
	char text[RPL_XEN_RINGS_TEXT];
	uint64_t page;
	int end = 0;

	if (!rpl_xen_definition_get(definition, RPL_XEN_KEY_RINGS, text, sizeof(text)) ||
	    sscanf(text, "0x%" SCNx64 ",0x%" SCNx64 "%n", &ret[0], &ret[1], &end) != 2 || text[end])
		return rpl_fail(err, -EINVAL, RPL_XEN_KEY_RINGS ": the primary's definition has no usable one");
	for (size_t i = 0; i < 2; i++)
		if (!ret[i] || !rpl_layout_file_page(l, ret[i], &page) || page >= rpl_xen_guest_pages(l))
			return rpl_fail(err, -EINVAL, RPL_XEN_KEY_RINGS ": frame 0x%" PRIx64 " is not in the primary's layout", ret[i]);
	return 0;
}
