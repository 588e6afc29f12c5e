#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A root in which there is nothing but Debian's essential packages, podman, and ours: in it a daemon
with a simulated GPU is started as its unit does, and one command gives a container a GPU of 1 GiB.

usage: unshare --mount --pid --fork clean_root.py PLACE DEB...      (as root)

PLACE is an empty directory. The other packages' files are the machine's own, by link, below a layer
that takes all changes. Prints what was done and said; the last lines are what nvidia-smi said in the
container. Exit status 77: it cannot be done here, and the last line says why.
"""
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time

SKIPPED = 77
DPKG = "/var/lib/dpkg"
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
# where a machine does not let podman raise them
LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]


def skip(why):
    print(why)
    sys.exit(SKIPPED)


def call(words, **kinds):
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, check=False, timeout=120, **kinds)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stdout[-4000:]}")
    return done.stdout


def paragraphs(text):
    """Those of a control file, each as fields."""
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): ?(.*(?:\n[ \t].*)*)", paragraph, re.M))
        if fields:
            yield paragraph, fields


class Installed:
    """What dpkg knows of this machine."""

    def __init__(self):
        self.package, self.provider = {}, {}
        with open(DPKG + "/status", encoding="utf-8") as file:
            for text, fields in paragraphs(file.read()):
                if fields.get("Status") != "install ok installed":
                    continue
                name = fields["Package"]
                self.package.setdefault(name, []).append((text, fields))
                for provided in re.findall(r"([\w.+-]+)[^,]*", fields.get("Provides", "")):
                    self.provider.setdefault(provided, name)

    def needs_of(self, fields):
        """The packages here that fulfil what one depends on, or None where one is not here."""
        for wish in filter(None, re.split(r",\s*", fields.get("Pre-Depends", "") + "," +
                                          fields.get("Depends", ""))):
            names = [re.match(r"\s*([\w.+-]+)", one).group(1) for one in wish.split("|")]
            found = [n for n in names if n in self.package] or \
                    [self.provider[n] for n in names if n in self.provider]
            yield found[0] if found else None

    def closure(self, wanted):
        todo, done = list(wanted), set()
        while todo:
            name = todo.pop()
            if name in done or name not in self.package:
                continue
            done.add(name)
            for _, fields in self.package[name]:
                todo += filter(None, self.needs_of(fields))
        return done


def link(path, root):
    """A file, link or directory of the machine's below another root."""
    target = root + path
    if os.path.lexists(target) or not os.path.lexists(path):
        return
    if os.path.isdir(path) and not os.path.islink(path):
        os.makedirs(target, exist_ok=True)
        shutil.copystat(path, target)
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(path, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(path, target, follow_symlinks=False)


def lay(root, debs):
    """The packages without which neither Debian nor podman nor ours would be."""
    installed = Installed()
    if "podman" not in installed.package:
        skip("podman is not installed as a package")
    ours = [dict(paragraphs(call(["dpkg-deb", "-f", deb]) + "\n")) for deb in debs]
    names = [name for name, all_ in installed.package.items()
             if any(fields.get("Essential") == "yes" for _, fields in all_)]
    wanted = names + ["podman", "crun", "runc"]
    for fields in (f for one in ours for f in one.values()):
        wanted += filter(None, installed.needs_of(fields))
    kept = installed.closure(wanted) - {f["Package"] for one in ours for f in one.values()}
    os.makedirs(root + "/usr")
    for name in MERGED:
        if os.path.islink("/" + name):
            os.symlink(os.readlink("/" + name), f"{root}/{name}")
            os.makedirs(f"{root}/{os.readlink('/' + name)}")
    for name in sorted(os.listdir(DPKG + "/info")):
        if name.rsplit(".", 1)[0].split(":")[0] in kept:
            link(f"{DPKG}/info/{name}", root)
            if name.endswith(".list"):
                with open(f"{DPKG}/info/{name}", encoding="utf-8") as file:
                    for path in file.read().split("\n")[1:]:
                        if path:
                            link(path, root)
    # what their scripts have made
    for path in ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/var/run", "/var/lock"):
        link(path, root)
    with open(root + DPKG + "/status", "w", encoding="utf-8") as file:
        file.write("\n\n".join(text.strip("\n") for name in sorted(kept)
                               for text, _ in installed.package[name]) + "\n\n")
    os.makedirs(root + DPKG + "/updates", exist_ok=True)
    for name in ("proc", "sys", "dev", "run", "tmp", "root"):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    return kept


def mount(*words):
    call(["mount", *words])


def image(path):
    """An archive that becomes an image: a C library, a place for everything, and nothing else."""
    machine = os.uname().machine
    loader = {"x86_64": "lib64/ld-linux-x86-64.so.2", "aarch64": "lib/ld-linux-aarch64.so.1"}[machine]
    multiarch = f"lib/{machine}-linux-gnu"
    with tarfile.open(path, "w") as tar:
        for name in ("usr/bin", "proc", "sys", "dev", "run", "tmp", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name in (loader, multiarch + "/libc.so.6"):
            tar.add(os.path.realpath("/" + name), arcname=name)


def inside(debs):
    """From here on the root is the clean one."""
    environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    podman = ["podman", "--storage-driver=vfs"]

    def run(*words, **more):
        return call(list(words), env=environment | more)

    run("ldconfig")
    run("dpkg", "--install", *debs)
    for name in ("cleave", "cleaved"):
        print(name, run("dpkg-query", "-W", "-f", "${Status}", name))
    with open(next(p for p in ("/lib/systemd/system/cleaved.service",
                               "/usr/lib/systemd/system/cleaved.service") if os.path.exists(p)),
              encoding="utf-8") as file:
        unit = dict(re.findall(r"^(ExecStart\w*)=-?(.*)$", file.read(), re.M))
    with open("/log", "w", encoding="utf-8") as log:
        daemon = subprocess.Popen([*unit["ExecStart"].split(), "--sim=h100"], env=environment,
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    until = time.monotonic() + 30
    while not os.path.exists("/run/cleave/control.sock"):
        if daemon.poll() is not None or time.monotonic() > until:
            with open("/log", encoding="utf-8") as log:
                raise SystemExit("the daemon does not come up: " + log.read()[-2000:])
        time.sleep(0.05)
    run(*unit["ExecStartPost"].split())
    run(*podman, "import", "/image.tar", "localhost/nothing")
    why = ""
    for runtime in ("crun", "runc"):
        for more in ([], ["--cgroups=disabled"]):
            # whether podman can run anything here is not the question
            command = [*podman, "--runtime", runtime, "run", "--rm", "--network=none", *LIMITS, *more]
            loader = "/lib64/ld-linux-x86-64.so.2" if os.uname().machine == "x86_64" else \
                "/lib/ld-linux-aarch64.so.1"
            done = subprocess.run(command + ["localhost/nothing", loader, "--help"], text=True,
                                  env=environment, stdin=subprocess.DEVNULL, capture_output=True,
                                  check=False, timeout=60)
            if done.returncode == 0:
                command += ["--device", "cleave.dev/gpu=mem-1G", "localhost/nothing", "nvidia-smi"]
                print("$", " ".join(command))
                print(run(*command))
                daemon.terminate()
                daemon.wait(timeout=20)
                return
            why += f"\n{' '.join(command)}: {done.stderr.strip()[-400:]}"
    skip("podman cannot run a container here: " + why)


def main():
    place, *debs = sys.argv[1:]
    layer, root = place + "/layer", place + "/root"
    mount("--make-rprivate", "/")
    begun = time.monotonic()
    kept = lay(place + "/lower", debs)
    print(f"{len(kept)} packages of the machine's, in {time.monotonic() - begun:.1f} s")
    os.makedirs(layer)
    os.makedirs(root)
    mount("-t", "tmpfs", "tmpfs", layer)
    os.makedirs(layer + "/upper")
    os.makedirs(layer + "/work")
    done = subprocess.run(["mount", "-t", "overlay", "overlay", "-o",
                           f"lowerdir={place}/lower,upperdir={layer}/upper,workdir={layer}/work", root],
                          text=True, capture_output=True, check=False)
    if done.returncode:
        skip("no layer can be laid over a directory here: " + done.stderr.strip())
    mount("-t", "proc", "proc", root + "/proc")
    mount("--rbind", "/sys", root + "/sys")
    mount("--rbind", "/dev", root + "/dev")
    for name in ("dev/shm", "run", "tmp"):
        mount("-t", "tmpfs", "tmpfs", f"{root}/{name}")
    names = []
    for deb in debs:
        names.append("/" + os.path.basename(deb))
        shutil.copy(deb, root + names[-1])
    image(root + "/image.tar")
    os.chroot(root)
    os.chdir("/")
    inside(names)


if __name__ == "__main__":
    main()
