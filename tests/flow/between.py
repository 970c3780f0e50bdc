"""Somebody with valid keys between two hosts: speaks TLS with either as the other would, passes whole frames
(replicad-link(7)) on, and when a test says so, lies once. Written from the page; TLS is GnuTLS, called directly, because
Python's own knows no PSK with TLS 1.3 here.

The primary's configuration has this peer's port as its backup's address; from here a connection goes on to the backup's agent.
"""
import ctypes
import os
import socket
import struct
import threading

from adversary import PORT, WAIT_S, in_namespace

LISTEN = PORT + 1
PREAMBLE = 32
HEADER = "<IHHQ"  # length, type, zero, sequence
HEADER_SIZE = struct.calcsize(HEADER)
FRAME_MAX = 1 << 20
HELLO, DEFINITION, READY, REFUSE, HEARTBEAT = 1, 2, 3, 4, 5
STREAM, PAGES, EPOCH_BEGIN, EPOCH_END, ACK, REDO, FLUSHED, HANDOVER, FORGET, PROTECTED = range(16, 26)
BULK = 1  # flag of EPOCH_BEGIN
TO_BACKUP, TO_PRIMARY = "to the backup", "to the primary"

SERVER, CLIENT = 1, 2
CRD_CERTIFICATE, CRD_PSK = 1, 4
PEM, KEY_HEX, CERT_REQUIRE = 1, 1, 2
E_AGAIN, E_INTERRUPTED = -28, -52
PRIORITY = (b"NONE:+VERS-TLS1.3:+AES-128-GCM:+CHACHA20-POLY1305:+AEAD:+GROUP-X25519:+GROUP-SECP256R1:+SIGN-ALL:"
            b"+ECDHE-PSK:+ECDHE-ECDSA:+CTYPE-X509")

gnutls = ctypes.CDLL("libgnutls.so.30", use_errno=True)
gnutls.gnutls_strerror.restype = ctypes.c_char_p
for receive in (gnutls.gnutls_record_recv, gnutls.gnutls_record_send):
    receive.restype = ctypes.c_ssize_t
    receive.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]


class Datum(ctypes.Structure):
    _fields_ = [("data", ctypes.c_char_p), ("size", ctypes.c_uint)]


class Closed(Exception):
    """The connection is over, for whatever reason."""


def need(result, what):
    if result < 0:
        raise Closed(f"{what}: {gnutls.gnutls_strerror(result).decode()}")


class X509:
    """Certificates of a directory with QEMU's file names."""

    def __init__(self, directory):
        self.directory = directory

    def equip(self, session, kind):
        cred = ctypes.c_void_p()
        path = {name: os.path.join(self.directory, f"{name}.pem").encode()
                for name in ("ca-cert", f"{kind}-cert", f"{kind}-key")}
        gnutls.gnutls_certificate_allocate_credentials(ctypes.byref(cred))
        need(gnutls.gnutls_certificate_set_x509_trust_file(cred, path["ca-cert"], PEM), "ca-cert")
        need(gnutls.gnutls_certificate_set_x509_key_file(cred, path[f"{kind}-cert"], path[f"{kind}-key"], PEM), kind)
        need(gnutls.gnutls_credentials_set(session, CRD_CERTIFICATE, cred), "certificate")
        if kind == "server":
            gnutls.gnutls_certificate_server_set_request(session, CERT_REQUIRE)
        return lambda: gnutls.gnutls_certificate_free_credentials(cred)


class Psk:
    """A name, and the hexadecimal key that we have for it; as a server, a key file."""

    def __init__(self, name, key, path=""):
        self.name, self.key, self.path = name.encode(), key.encode(), path.encode()

    def equip(self, session, kind):
        cred = ctypes.c_void_p()
        if kind == "server":
            gnutls.gnutls_psk_allocate_server_credentials(ctypes.byref(cred))
            need(gnutls.gnutls_psk_set_server_credentials_file(cred, self.path), "key file")
            need(gnutls.gnutls_credentials_set(session, CRD_PSK, cred), "PSK")
            return lambda: gnutls.gnutls_psk_free_server_credentials(cred)
        datum = Datum(self.key, len(self.key))
        gnutls.gnutls_psk_allocate_client_credentials(ctypes.byref(cred))
        need(gnutls.gnutls_psk_set_client_credentials(cred, self.name, ctypes.byref(datum), KEY_HEX), "key")
        need(gnutls.gnutls_credentials_set(session, CRD_PSK, cred), "PSK")
        return lambda: gnutls.gnutls_psk_free_client_credentials(cred)


class Side:
    """One TLS connection: its one direction belongs to one thread, the other to another, which GnuTLS allows."""

    def __init__(self, sock, keys, kind):
        self.sock, self.kind, self.pending = sock, kind, b""
        self.session = ctypes.c_void_p()
        gnutls.gnutls_init(ctypes.byref(self.session), SERVER if kind == "server" else CLIENT)
        self.free_keys = lambda: None
        try:
            need(gnutls.gnutls_priority_set_direct(self.session, PRIORITY, None), "priorities")
            self.free_keys = keys.equip(self.session, kind)
            gnutls.gnutls_transport_set_int2(self.session, sock.fileno(), sock.fileno())
            need(self._handshake(), "handshake")
        except Closed:
            self.free()
            raise

    def _handshake(self):
        self.sock.settimeout(None)  # the descriptor must block: GnuTLS has it, not Python
        result = E_AGAIN
        while result < 0 and not gnutls.gnutls_error_is_fatal(result):
            result = gnutls.gnutls_handshake(self.session)
        if result < 0:
            gnutls.gnutls_alert_send_appropriate(self.session, result)
        return result

    def send(self, data):
        while data:
            n = gnutls.gnutls_record_send(self.session, data, len(data))
            if n < 0 and n not in (E_AGAIN, E_INTERRUPTED):
                raise Closed(f"send: {n}")
            data = data[max(n, 0):]

    def read(self, size):
        buffer = ctypes.create_string_buffer(16 << 10)
        parts, have = [self.pending], len(self.pending)
        while have < size:
            n = gnutls.gnutls_record_recv(self.session, buffer, len(buffer))
            if n in (E_AGAIN, E_INTERRUPTED):
                continue
            if n <= 0:
                raise Closed(f"receive: {n}")
            parts.append(buffer.raw[:n])
            have += n
        data = b"".join(parts)
        self.pending = data[size:]
        return data[:size]

    def hang_up(self):
        """Wakes who waits on it."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it was down

    def free(self):
        gnutls.gnutls_deinit(self.session)
        self.free_keys()
        self.sock.close()


class Lie:
    """What to do with the next frame of a type (and, with `when`, a body that fits) in one direction, instead of passing it
    on. tell(wire, kind, body) has the wire towards its victim."""

    def __init__(self, direction, kind, tell, when=None, again=False):
        """`again`: not once, but every time."""
        self.direction, self.kind, self.tell, self.again = direction, kind, tell, again
        self.when = when or (lambda body: True)
        self.begun, self.done = threading.Event(), threading.Event()

    def meets(self, wire, kind, body):
        return (self.direction, self.kind) == (wire.direction, kind) and self.when(body)


class Wire:
    """One direction of a connection: reads frames from one side, numbers them anew and writes them to the other."""

    def __init__(self, between, direction, source, target):
        self.between, self.direction, self.source, self.target = between, direction, source, target
        self.sequence = 0
        self.passing = None  # epoch under way: [(kind, body)]
        self.epoch = []      # the last one that was passed on whole

    def header(self, kind, length, sequence=None, reserved=0):
        number = self.sequence if sequence is None else sequence
        return struct.pack(HEADER, length, kind, reserved, number)

    def send(self, kind, body=b"", length=None, sequence=None, reserved=0):
        self.target.send(self.header(kind, len(body) if length is None else length, sequence, reserved) + body)
        self.sequence += 1

    def next(self):
        length, kind, _, _ = struct.unpack(HEADER, self.source.read(HEADER_SIZE))
        return kind, self.source.read(length)

    def bare(self, data):
        """Bytes on the connection below TLS."""
        self.target.sock.sendall(data)

    def cut(self):
        """The end of the connection without TLS saying so."""
        self.target.sock.shutdown(socket.SHUT_WR)

    def bye(self):
        """The end of our direction, in order."""
        gnutls.gnutls_bye(self.target.session, 1)
        self.cut()

    def _remember(self, kind, body):
        if kind == EPOCH_BEGIN:
            self.passing = []
        if self.passing is not None and kind in (EPOCH_BEGIN, STREAM, PAGES, EPOCH_END):
            self.passing.append((kind, body))
        if kind == EPOCH_END and self.passing:
            self.epoch, self.passing = self.passing, None

    def run(self):
        try:
            while True:
                kind, body = self.next()
                lie = self.between.lie
                if lie and lie.meets(self, kind, body):
                    if not lie.again:
                        self.between.lie = None
                    lie.begun.set()
                    lie.tell(self, kind, body)
                    lie.done.set()
                else:
                    self.send(kind, body)
                    self._remember(kind, body)
        except (Closed, OSError):
            pass
        finally:
            self.source.hang_up()
            self.target.hang_up()


def connect(namespace, address):
    sock = in_namespace(namespace, lambda: socket.create_connection((address, PORT), WAIT_S))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Between:
    """Listens where the primary thinks its backup is. `keys` towards the backup and towards the primary; they may change,
    and hold from the next connection on."""

    def __init__(self, primary, backup, address, keys):
        """Paths of the two network namespaces."""
        self.primary, self.backup, self.address = primary, backup, address
        self.to_backup = self.to_primary = keys
        self.lie, self.wires, self.failures, self.over = None, {}, [], False
        self.listener = in_namespace(backup, self._listen)
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _listen(self):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self.address, LISTEN))
        sock.listen(8)
        return sock

    def _accept(self):
        while not self.over:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self.threads[-1].start()

    def _serve(self, sock):
        sides = []
        try:
            self._connect(sock, sides)
            wires = {direction: Wire(self, direction, *ends)
                     for direction, ends in ((TO_BACKUP, sides), (TO_PRIMARY, sides[::-1]))}
            self.wires = wires
            back = threading.Thread(target=wires[TO_PRIMARY].run)
            back.start()
            wires[TO_BACKUP].run()
            back.join()
        except (Closed, OSError) as error:
            self.failures.append(str(error))
            if not sides:
                sock.close()
        for side in sides:
            side.free()

    def _connect(self, sock, sides):
        """The primary's side first, so that what it thinks of our keys is known alone."""
        sock.settimeout(WAIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        preamble = sock.recv(PREAMBLE, socket.MSG_WAITALL)
        sides.append(Side(sock, self.to_primary, "server"))
        further = connect(self.primary, self.address)
        further.sendall(preamble)
        try:
            sides.append(Side(further, self.to_backup, "client"))
        except Closed:
            further.close()
            raise

    def reset(self):
        """Ends the connection of the moment."""
        for wire in self.wires.values():
            wire.source.hang_up()

    def close(self):
        self.over = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.reset()
        for thread in self.threads:
            thread.join(WAIT_S)
