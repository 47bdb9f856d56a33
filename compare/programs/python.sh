# Object graphs built, walked and dropped; text and JSON. Python's own pool is switched off, or malloc would see little.
# needs: python3
# process: python3
prepare() {
    python=$(python3 -c 'import sys, os; print(os.path.realpath(sys.executable))')
    ln -s "$python" python3
    cat >work.py <<PY
import json
class Node:
    __slots__ = ("key", "left", "right", "data")
    def __init__(self, key):
        self.key, self.left, self.right, self.data = key, None, None, [key, str(key)]
def insert(root, key):
    while True:
        side = "left" if key < root.key else "right"
        child = getattr(root, side)
        if child is None:
            setattr(root, side, Node(key))
            return
        root = child
for turn in range($WORK):
    key, root = 12345, Node(1 << 30)
    for i in range(20000):
        key = (key * 1103515245 + 12345) % (1 << 31)
        insert(root, key)
    rows = [{"id": i, "name": f"item {i}", "tags": [str(i % 7), "x" * (i % 50)]} for i in range(20000)]
    text = json.dumps(rows)
    assert json.loads(text) == rows
    words = {}
    for word in text.split():
        words[word] = words.get(word, 0) + 1
    del root, rows, text
print(len(words))
PY
}
run() {
    home=$(dirname "$(dirname "$(readlink python3)")")
    PYTHONMALLOC=malloc PYTHONHASHSEED=0 PYTHONHOME="$home" peer ./python3 work.py >/dev/null
}
