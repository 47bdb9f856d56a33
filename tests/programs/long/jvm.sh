# A Java virtual machine inside of a Rust program whose mapped files catch faults: both handle the same signals, whoever
# came first; and with the library preloaded, beneath both.
java_home=$(dirname "$(dirname "$(readlink -f "$(command -v javac)")")")
cat >Faults.java <<'JAVA'
import java.io.RandomAccessFile;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;

public class Faults {
    int field = 1;

    static native int read();

    static int field(Faults of) {
        return of.field;
    }

    static int deep(int depth) {
        return deep(depth + 1) + 1;
    }

    /* Compiled code finds a null by the fault. */
    static boolean nulls() {
        Faults one = new Faults();
        int caught = 0;
        for (int i = 0; i < 300_000; i++) {
            try {
                field(i % 1000 == 999 ? null : one);
            } catch (NullPointerException expected) {
                caught++;
            }
        }
        return caught == 300;
    }

    static boolean stacks() {
        for (int i = 0; i < 20; i++) {
            try {
                deep(0);
                return false;
            } catch (StackOverflowError expected) {
            }
        }
        return true;
    }

    static boolean files() throws Exception {
        java.io.File name = java.io.File.createTempFile("faults", null);
        try (RandomAccessFile file = new RandomAccessFile(name, "rw")) {
            file.setLength(1 << 20);
            MappedByteBuffer bytes = file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, 1 << 20);
            file.setLength(0);
            try {
                for (int i = 0; i < 1 << 20; i++) bytes.get(i);
                return false;
            } catch (InternalError expected) {
                return true;
            }
        } finally {
            name.delete();
        }
    }

    static boolean threads() throws Exception {
        boolean[] good = new boolean[4];
        Thread[] threads = new Thread[good.length];
        for (int i = 0; i < good.length; i++) {
            int own = i;
            threads[i] = new Thread(() -> {
                boolean all = true;
                for (int round = 0; round < 50; round++) {
                    all &= read() == 1;
                    if (round % 10 == 0) all &= nulls() & stacks();
                    byte[] garbage = new byte[1 << 20];
                    all &= garbage[round] == 0;
                }
                good[own] = all;
            });
            threads[i].start();
        }
        boolean all = true;
        for (int i = 0; i < good.length; i++) {
            threads[i].join();
            all &= good[i];
        }
        return all;
    }

    static int run() throws Exception {
        int found = 0;
        if (nulls()) found++;
        if (stacks()) found++;
        if (files()) found++;
        if (read() == 1) found++;
        if (threads()) found++;
        return found;
    }
}
JAVA
"$java_home/bin/javac" Faults.java
cargo build --quiet --release --manifest-path "$ROOT/Cargo.toml" --features files --example beside_java
program=${CARGO_TARGET_DIR:-$ROOT/target}/release/examples/beside_java
for first in files java; do
    for preload in "" "$LIBRARY"; do
        env LD_PRELOAD="$preload" "$program" "$java_home/lib/server/libjvm.so" "$PWD" "$first" >found ||
            fail "$first first, preloaded: $preload: $(tail -3 found)"
        grep -E "^$first first: 5 found by Java, [0-9]{3,} by regions" found
    done
done
