# CPython, every object from malloc: a program of many objects and threads, then parts of its own test suite.
python=/usr/bin/python3
export PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1
served $python -c 1
cat >objects.py <<'PY'
import gc, hashlib, json, threading

def build(seed):
    nodes, state = [], seed
    for i in range(40_000):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        earlier = nodes[state % i] if i else None
        nodes.append({"id": i, "key": "k%x" % state, "list": list(range(state % 17)), "next": earlier})
        if state % 3 == 0:
            nodes[state % len(nodes)] = {"id": -i, "key": str(state), "list": [], "next": None}
    digest = hashlib.sha256()
    for node in nodes:
        digest.update(json.dumps([node["id"], node["key"], node["list"]]).encode())
    return digest.hexdigest()

results = {}
threads = [threading.Thread(target=lambda s=s: results.__setitem__(s, build(s))) for s in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
gc.collect()
print(sorted(results.items()))
PY
env -u PYTHONMALLOC $python objects.py >expected
preloaded $python objects.py >found
same found expected
preloaded $python -m test -j2 --timeout 150 \
    test_json test_re test_dict test_list test_set test_threading test_subprocess
patterns=()
for kind in Queue Array Heap Connection Pool; do
    patterns+=(-m "*WithProcessesTest$kind*")
done
preloaded $python -m test --timeout 150 "${patterns[@]}" test_multiprocessing_fork
