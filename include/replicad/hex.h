/* hex.h - one hexadecimal digit */
#ifndef REPLICAD_HEX_H
#define REPLICAD_HEX_H

/* Its value, either case; -1 if it is none. */
static inline int rpl_hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

#endif
