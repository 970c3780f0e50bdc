"""A peer that opens the link of replicad-link(7), preamble and TLS, and says what a test wants: written from the page."""
import ctypes
import os
import socket
import ssl
import struct
import threading
import uuid

PORT = 7887
CLONE_NEWNET = 0x40000000
WAIT_S = 20
MAGIC = b"REPLICAD"


def in_namespace(path, make):
    """make() in another network namespace: a socket stays where it was made."""
    result = []

    def work():
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            result.append(make())
        except OSError as error:
            result.append(error)
        finally:
            os.close(fd)
    thread = threading.Thread(target=work)  # of its own: the namespace is the thread's
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def preamble(vm, major=1, magic=MAGIC, zero=0):
    return magic + struct.pack(">HHI", major, 0, zero) + uuid.UUID(vm).bytes


class Peer:
    """One connection. What the other side does to it is no error here: the test looks at what that side says."""

    def __init__(self, namespace, address):
        self.sock = in_namespace(namespace, lambda: socket.create_connection((address, PORT), WAIT_S))

    def secure(self, pki):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # it is the other side that has to look
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(os.path.join(pki, "client-cert.pem"), os.path.join(pki, "client-key.pem"))
        self.sock = context.wrap_socket(self.sock)

    def raw(self, data):
        try:
            self.sock.sendall(data)
        except OSError:
            pass  # it hung up already, which is what most cases are about

    def until_closed(self):
        """Wait for the other side to hang up; False if it does not."""
        try:
            while self.sock.recv(65536):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True

    def close(self):
        self.sock.close()
