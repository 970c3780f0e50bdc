/* Tap devices, by ioctl. Oddities:
 * - TUNSETIFF attaches to an existing tap or makes one; one that we made is not persistent: it goes with its last
 *   descriptor, so a relay that is killed leaves nothing behind.
 * - The host's own IPv6 would speak on a bridge port (router solicitation, MLD), so it is turned off there before the
 *   device is up. A tap without a bridge is the host's business and left alone.
 */
#include "relayd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <replicad/auto.h>
#include <replicad/io.h>

static void quiet_ipv6(const char *ifname)
{
	RPL_AUTO_FD int fd = -1;
	char path[64 + IFNAMSIZ];

	(void)snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/disable_ipv6", ifname);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		(void)rpl_write_full(fd, "1", 1); /* a kernel without IPv6, or a read-only /proc: no harm either way */
}

static int set_up(int sock, const char *ifname, struct rpl_err *err)
{
	struct ifreq q = { 0 };

	memcpy(q.ifr_name, ifname, strlen(ifname));
	if (ioctl(sock, SIOCGIFFLAGS, &q) < 0)
		return rpl_fail_errno(err, errno, "tap %s: read its flags", ifname);
	q.ifr_flags |= IFF_UP;
	if (ioctl(sock, SIOCSIFFLAGS, &q) < 0)
		return rpl_fail_errno(err, errno, "tap %s: set it up", ifname);
	return 0;
}

static int join_bridge(int sock, const char *ifname, const char *bridge, struct rpl_err *err)
{
	struct ifreq q = { 0 };
	unsigned index = if_nametoindex(ifname);

	memcpy(q.ifr_name, bridge, strlen(bridge));
	q.ifr_ifindex = (int)index;
	if (index == 0 || (ioctl(sock, SIOCBRADDIF, &q) < 0 && errno != EBUSY))
		return rpl_fail_errno(err, errno, "tap %s: add it to bridge %s", ifname, bridge);
	return 0; /* EBUSY: a persistent tap that is on a bridge already */
}

int rpl_relay_tap_open(const char *ifname, const char *bridge, struct rpl_err *err)
{
	RPL_AUTO_FD int fd = -1;
	RPL_AUTO_FD int sock = -1;
	struct ifreq q = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int r;

	if (!ifname[0] || strlen(ifname) >= IFNAMSIZ || (bridge && (!bridge[0] || strlen(bridge) >= IFNAMSIZ)))
		return rpl_fail(err, -EINVAL, "tap '%.40s', bridge '%.40s': an interface name has 1 to %d characters",
				ifname, bridge ? bridge : "", IFNAMSIZ - 1);
	fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return rpl_fail_errno(err, errno, "tap %s: open /dev/net/tun", ifname);
	memcpy(q.ifr_name, ifname, strlen(ifname));
	if (ioctl(fd, TUNSETIFF, &q) < 0)
		return rpl_fail_errno(err, errno, "tap %s: create or attach it (needs CAP_NET_ADMIN; one user at a time)",
				      ifname);
	sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return rpl_fail_errno(err, errno, "tap %s: socket", ifname);
	if (bridge) {
		quiet_ipv6(ifname);
		r = join_bridge(sock, ifname, bridge, err);
		if (r < 0)
			return r;
	}
	r = set_up(sock, ifname, err);
	if (r < 0)
		return r;
	return rpl_steal_fd(&fd);
}
