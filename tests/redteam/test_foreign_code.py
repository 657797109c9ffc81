"""Attacks by a method's own code while it trains, in a real lane: what it can reach, break, fake or leave behind."""

from __future__ import annotations

import resource
import socket
import sys
from pathlib import Path

from cluster.sandbox.decoys import processes_with
from tests.unit.cluster.sandbox_kit import marker
from tests.unit.gpu_pool.worker_bench import Bench

STUDENT = {"student.safetensors": 64 << 20}
FAKE = """
import os
from gpu_pool.weak_to_strong import entrypoints
class Fake:
  threads = 1
  @staticmethod
  def from_dir(*_): return Fake()
  def save(self, path):
    {save}
entrypoints.Student = entrypoints.MethodRun = Fake
def train(run): return Fake()
"""
"""A method that replaces the library's own classes in its process and writes whatever it likes as its student."""


def faked(bench: Bench, save: str) -> tuple[str, str]:
    """Status and first line of the error (what a submitter sees) of a step whose student is written by `save`."""
    result = bench.run(FAKE.format(save=save), outputs=STUDENT)
    assert result.outputs == {}
    assert "train" in bench.run("x = 1\n").error, "the lane goes on"
    return result.status, result.error.splitlines()[0]


def test_a_sparse_student_of_fifty_gigabytes_is_refused_unread(bench: Bench) -> None:
    assert faked(bench, "f = open(path, 'wb'); f.truncate(50 << 30)") == ("error", "OSError: [Errno 27] File too large")
    status, error = faked(bench, "f = open(path, 'wb'); f.truncate(500 << 20); f.close()")
    assert status == "bad_output"
    assert error in ("'student.safetensors': has 524288000 bytes, more than 67108864", "it wrote more than 128 MiB")


def test_a_fifo_for_a_student_is_refused_without_waiting(bench: Bench) -> None:
    assert faked(bench, "os.mkfifo(path)") == ("bad_output", "'student.safetensors': is not a regular file")


def test_a_second_name_of_a_file_is_no_student(bench: Bench) -> None:
    status, error = faked(bench, "open('/out/x', 'w').write('x'); os.link('/out/x', path)")
    assert (status, error) == ("bad_output", "'student.safetensors': has 2 names")


def test_a_directory_or_a_chain_of_links_is_no_student(bench: Bench) -> None:
    assert faked(bench, "os.mkdir(path)") == ("bad_output", "'student.safetensors': is not a regular file")
    status, error = faked(bench, "os.symlink('/in/strong/model.safetensors', path)")
    assert (status, error) == ("bad_output", "'student.safetensors': is a symbolic link, or lies behind one")


def test_frames_of_two_gigabytes_bombs_and_foreign_types_on_the_pipe_change_nothing_outside(bench: Bench) -> None:
    hostile = """
import os, stat, struct
bodies = [struct.pack('>I', 2 << 30) + b'x', struct.pack('>I', 6) + b'\\xdd\\xff\\xff\\xff\\xff\\x00',
          struct.pack('>I', 100) + b'\\x91' * 100, struct.pack('>I', 3) + b'\\xd4\\x05\\x00']
tried = 0
for fd in os.listdir('/proc/self/fd'):
  try:
    if stat.S_ISFIFO(os.fstat(int(fd)).st_mode) and int(fd) > 2:
      os.write(int(fd), bodies[KIND]); tried += 1
  except OSError: pass
raise SystemExit(0 if tried else 'found no pipe')
"""
    bench.do(bench.ready())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in range(4):
        result = bench.run(hostile.replace("KIND", str(kind)))
        assert result.status in ("crashed", "error"), result
        assert "SystemExit: found" not in result.error
        assert bench.worker is not None
        assert bench.worker.alive
    assert "train" in bench.run("x = 1\n").error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10, "kilobytes"


def test_a_flood_of_progress_is_cut_and_ends_with_the_step(bench: Bench) -> None:
    flood = (
        "from gpu_pool.child import entries\nimport gc\n"
        "logs = [o for o in gc.get_objects() if callable(o) and getattr(o, '__name__', '') == 'log']\n"
        "for _ in range(20000): logs[0]('x' * 100, n=1)\n"
        "raise RuntimeError('done')"
    )
    result = bench.run(flood)
    assert "done" in result.error


def test_files_planted_for_the_interpreter_are_not_imported_by_the_next_step(bench: Bench) -> None:
    plant = """
import os, site, sys
evil = "open('/out/owned', 'w').write('x')\\n"
names = ('sitecustomize.py', 'usercustomize.py', 'conftest.py', 'numpy.py', 'torch.py', 'x.pth', '.pth')
done = []
for folder in ('/ws', '/tmp', '/out', '/dev/shm', '/in', '/in/code', '/aar', *sys.path, *site.getsitepackages()):
  for name in names:
    try:
      open(os.path.join(folder, name), 'w').write(evil); done.append(folder)
    except OSError: pass
raise RuntimeError(f'planted {sorted(set(done))}')
"""
    first = bench.run(plant)
    assert "planted ['/dev/shm', '/out', '/tmp', '/ws']" in first.error
    look = (
        "import os, sys, numpy, torch\n"
        "places = [numpy.__file__, torch.__file__]\n"
        "raise RuntimeError(f\"owned {os.path.exists('/out/owned')} {places} {sys.flags.isolated}"
        " {[k for k in os.environ if k.startswith('PYTHON')]}\")"
    )
    error = bench.run(look).error
    assert "owned False" in error
    assert "site-packages/numpy" in error
    assert "1 []" in error


def test_modules_named_like_the_library_beside_a_method_reach_no_other_process(bench: Bench) -> None:
    evil = "raise RuntimeError('mine')"
    beside = {"numpy.py": evil, "sitecustomize.py": evil, "safetensors.py": evil, "gpu_pool.py": evil}
    bench.run("import numpy\nx = numpy.ones(1)\n", beside=beside)
    assert "MethodError" in bench.run("x = 1\n").error


def test_it_may_change_its_own_deadline_and_dies_on_time_all_the_same(bench: Bench) -> None:
    bench.do(bench.ready())
    stubborn = """
import os, signal, sys, time
for number in range(1, 65):
  try: signal.signal(number, signal.SIG_IGN)
  except (OSError, ValueError): pass
time.monotonic = lambda: 0.0
for name, module in list(sys.modules.items()):
  for attribute in ('DeadlineError', 'HEARTBEAT_S', 'CANCEL_GRACE_S'):
    if attribute in vars(module): setattr(module, attribute, 1e9)
try: os.setsid()
except PermissionError: pass  # it leads a session already
while True:
  try: time.sleep(1000)
  except BaseException: pass
"""
    result = bench.run(stubborn, seconds=1.5)
    assert result.status == "timeout", (result.error, result.log)
    assert result.seconds < 6


def test_nothing_of_memory_or_shared_memory_is_left_for_the_next_method(bench: Bench) -> None:
    leave = """
mark = b'CANARY-OF-A-RUN-' * 4096
kept = [bytearray(mark) for _ in range(64)]
open('/dev/shm/canary', 'wb').write(mark)
raise RuntimeError('left')
"""
    look = """
import mmap, os, numpy
mark = b'CANARY-OF-' + b'A-RUN-'
found = [p for p in os.listdir('/dev/shm')]
area = mmap.mmap(-1, 64 << 20)
found += ['memory'] if area.find(mark) >= 0 else []
found += ['numpy'] if mark in numpy.empty(64 << 20, numpy.uint8).tobytes() else []
raise RuntimeError(f'found {found}')
"""
    assert "left" in bench.run(leave).error
    assert "found []" in bench.run(look).error


def test_a_daemon_with_every_trick_is_gone_when_the_step_ends(bench: Bench) -> None:
    word = marker()
    daemon = f"""
import ctypes, os, signal, time
for _ in range(8):
  if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
      ctypes.CDLL(None).prctl(15, b'{word[:15]}', 0, 0, 0)
      signal.signal(signal.SIGTERM, signal.SIG_IGN)
      while True: time.sleep(1)
    os._exit(0)
raise RuntimeError('left')
"""
    assert "left" in bench.run(daemon).error
    assert processes_with(word) == []
    assert "processes 3" in bench.run("import os\nraise RuntimeError(f\"processes "
                                      "{len([p for p in os.listdir('/proc') if p.isdigit()])}\")").error  # fmt: skip


def test_no_way_leads_to_a_network(bench: Bench) -> None:
    """Names, addresses of the world and of this host, its services, the hub; the control reaches the host's own."""
    with socket.socket() as listener:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        port = listener.getsockname()[1]
        addresses = {"127.0.0.1", *socket.gethostbyname_ex(socket.gethostname())[2]}
        for address in addresses:
            socket.create_connection((address, port), 2).close()
        tries = f"""
import socket, urllib.request
reached = []
for address in {sorted(addresses)!r}:
  try: socket.create_connection((address, {port}), 2); reached.append(address)
  except OSError: pass
for name in ('huggingface.co', 'pypi.org'):
  try: reached.append(socket.getaddrinfo(name, 443))
  except OSError: pass
for family, address in ((socket.AF_INET, ('1.1.1.1', 53)), (socket.AF_INET6, ('2606:4700:4700::1111', 53))):
  for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    try:
      s = socket.socket(family, kind); s.settimeout(1); s.connect(address); s.send(b'x'); reached.append(address)
    except OSError: pass
try: reached.append(urllib.request.urlopen('http://169.254.169.254/', timeout=1).status)
except OSError: pass
try:
  from transformers import AutoConfig
  reached.append(AutoConfig.from_pretrained('gpt2').model_type)
except Exception: pass
raise RuntimeError(f'reached {{reached}}')
"""
        assert "reached []" in bench.run(tries, seconds=60).error


def test_shared_inputs_can_be_read_and_not_changed(bench: Bench, tmp_path: Path) -> None:
    weak, strong = tmp_path / "weak.safetensors", bench.models / "strong"
    weak.write_bytes(b"labels of the teacher")
    strong.mkdir(exist_ok=True)
    (strong / "model.safetensors").write_bytes(b"pretrained")
    tries = """
import os
changed = []
for path in ('/in/weak.safetensors', '/in/strong/model.safetensors', '/cache/strong/model.safetensors',
             '/in/code/method.py', '/aar/gpu_pool/__init__.py'):
  assert open(path, 'rb').read()  or path.startswith('/aar')
  for act in (lambda: open(path, 'r+b').write(b'mine'), lambda: os.unlink(path), lambda: os.chmod(path, 0o777),
              lambda: os.rename('/in/code/method.py', path), lambda: os.symlink('/etc', path + 'x')):
    try: act(); changed.append(path)
    except OSError: pass
raise RuntimeError(f'changed {changed}')
"""
    result = bench.run(tries, inputs={"weak.safetensors": weak, "strong": strong})
    assert "changed []" in result.error
    assert weak.read_bytes() == b"labels of the teacher"
    assert (strong / "model.safetensors").read_bytes() == b"pretrained"


def test_the_lane_holds_no_history_no_key_and_no_path_of_the_host(bench: Bench) -> None:
    look = f"""
import os
bad = []
for folder, names, files in os.walk('/'):
  if folder.startswith(('/proc', '/sys', '/usr', {sys.prefix!r}, {sys.base_prefix!r})):
    names.clear(); continue
  bad += [os.path.join(folder, n) for n in names + files
          if n in ('.git', 'judge', 'private', 'leases', 'runs', '.ray', '.ssh', '.netrc', 'auth_token', 'evaluator.db',
                   'secret.bin', 'signing.key', 'domains', 'tasks', 'actors', 'tests')
          and not folder.startswith('/dev')]
bad += [k for k in os.environ if k.startswith(('RAY', 'AWS', 'ANTHROPIC', 'HF_TOKEN', 'WANDB'))]
bad += [line for line in open('/proc/self/mountinfo') if 'redteam-never' in line]
raise RuntimeError(f'bad {{bad}}')
"""
    assert "bad []" in bench.run(look, seconds=60).error
