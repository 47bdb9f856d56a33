# Java: the virtual machine, the compiler inside it, and threads that use memory outside Java's heap.
cat >Work.java <<'JAVA'
import java.nio.ByteBuffer;
import java.security.MessageDigest;
import java.util.*;
import java.util.concurrent.*;
import java.util.zip.*;

public class Work {
    static String work(int seed) throws Exception {
        Random random = new Random(seed);
        MessageDigest digest = MessageDigest.getInstance("SHA-256");
        Map<String, byte[]> kept = new TreeMap<>();
        for (int i = 0; i < 50; i++) {
            ByteBuffer direct = ByteBuffer.allocateDirect(1 + random.nextInt(200_000));
            while (direct.remaining() >= 4) direct.putInt(random.nextInt(50));
            direct.flip();
            byte[] bytes = new byte[direct.remaining()];
            direct.get(bytes);
            Deflater deflater = new Deflater();
            deflater.setInput(bytes);
            deflater.finish();
            byte[] packed = new byte[bytes.length + 100];
            int length = deflater.deflate(packed);
            deflater.end();
            Inflater inflater = new Inflater();
            inflater.setInput(packed, 0, length);
            byte[] again = new byte[bytes.length];
            inflater.inflate(again);
            inflater.end();
            if (!Arrays.equals(bytes, again)) throw new IllegalStateException("round " + i);
            kept.put("k" + random.nextInt(40), again);
        }
        for (var entry : kept.entrySet()) digest.update(entry.getValue());
        return HexFormat.of().formatHex(digest.digest());
    }

    public static void main(String[] arguments) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Future<String>> results = new ArrayList<>();
        for (int seed = 0; seed < 16; seed++) {
            int own = seed;
            results.add(pool.submit(() -> work(own)));
        }
        for (Future<String> result : results) System.out.println(result.get());
        pool.shutdown();
        Thread[] threads = new Thread[500];
        for (int i = 0; i < threads.length; i++) {
            threads[i] = new Thread(() -> ByteBuffer.allocateDirect(5000));
            threads[i].start();
        }
        for (Thread thread : threads) thread.join();
        System.out.println("done");
    }
}
JAVA
BIND_BY=libjvm served java -version
preloaded java -version 2>&1 | grep -i version
java Work.java >expected &
preloaded java Work.java >found
wait $!
same found expected
tail -1 found | grep -x done
[ "$(wc -l <found)" = 17 ] || fail "not seventeen lines"
