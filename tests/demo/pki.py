"""A certificate authority for the demo's two hosts, made with openssl as replicad-security(7) shows."""
import os
import subprocess

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
PURPOSE = {"client": "clientAuth", "server": "serverAuth", "peer": "serverAuth,clientAuth"}
DAYS = "30"


class PkiError(Exception):
    pass


def _openssl(*argv):
    try:
        done = subprocess.run(["openssl", "req", "-x509", *KEY, "-days", DAYS, *argv], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise PkiError("openssl not found; install the package openssl") from None
    if done.returncode != 0:
        raise PkiError(f"openssl {' '.join(argv)}: exit {done.returncode}: {done.stderr.strip()}")


class Authority:
    def __init__(self, directory):
        os.makedirs(directory, mode=0o700)
        self.cert, self.key = (os.path.join(directory, name) for name in ("ca-cert.pem", "ca-key.pem"))
        _openssl("-keyout", self.key, "-out", self.cert, "-subj", "/CN=replicad")

    def issue(self, directory, name, kinds=("client", "server"), address=None):
        """The files of a node, under QEMU's names; what is there already is replaced. `address`: where it is reached, if not by name."""
        os.makedirs(directory, mode=0o700, exist_ok=True)
        with open(self.cert, "rb") as ca, open(os.path.join(directory, "ca-cert.pem"), "wb") as copy:
            copy.write(ca.read())
        for kind in kinds:
            _openssl("-CA", self.cert, "-CAkey", self.key, "-keyout", os.path.join(directory, f"{kind}-key.pem"),
                     "-out", os.path.join(directory, f"{kind}-cert.pem"), "-subj", f"/CN={name}",
                     "-addext", "basicConstraints=critical,CA:FALSE", "-addext", f"subjectAltName=DNS:{name}{f',IP:{address}' if address else ''}",
                     "-addext", f"extendedKeyUsage={PURPOSE[kind]}")
