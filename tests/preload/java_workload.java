import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.zip.CRC32;
import java.util.zip.Deflater;
import java.util.zip.Inflater;

/** Many threads that use memory outside Java's heap: direct buffers, zlib, threads, classes; prints what they found. */
class Workload {
  /** Compressed and back, by native code with memory of its own. */
  static long pack(byte[] data) throws Exception {
    Deflater deflater = new Deflater();
    deflater.setInput(data);
    deflater.finish();
    byte[] packed = new byte[data.length + 1000];
    int length = deflater.deflate(packed);
    deflater.end();
    Inflater inflater = new Inflater();
    inflater.setInput(packed, 0, length);
    byte[] restored = new byte[data.length];
    int got = inflater.inflate(restored);
    inflater.end();
    CRC32 crc = new CRC32();
    crc.update(restored, 0, got);
    return crc.getValue() * 31 + length;
  }

  static long work(int seed) throws Exception {
    Random random = new Random(seed);
    Map<String, List<Integer>> table = new HashMap<>();
    long sum = 0;
    for (int round = 0; round < 8; ++round) {
      byte[] data = new byte[1 + random.nextInt(40000)];
      for (int i = 0; i < data.length; ++i) data[i] = (byte) (random.nextInt(12) * (i % 7));
      sum = sum * 31 + pack(data);
      ByteBuffer direct = ByteBuffer.allocateDirect(data.length);
      direct.put(data).flip();
      sum += direct.get(data.length / 2) + String.format("%05d %s", round, seed).hashCode();
      for (int i = 0; i < 500; ++i) table.computeIfAbsent("key" + random.nextInt(300), key -> new ArrayList<>()).add(i);
    }
    return sum + table.size();
  }

  /** Direct buffers that one thread makes and another reads. */
  static long handOver() throws Exception {
    ArrayBlockingQueue<ByteBuffer> queue = new ArrayBlockingQueue<>(32);
    Thread producer = new Thread(() -> {
      try {
        for (int i = 0; i < 2000; ++i) queue.put(ByteBuffer.allocateDirect(4 + i * 37 % 5000).putInt(0, i));
      } catch (InterruptedException error) {
        throw new IllegalStateException(error);
      }
    });
    producer.start();
    long sum = 0;
    for (int i = 0; i < 2000; ++i) {
      ByteBuffer buffer = queue.take();
      sum += buffer.getInt(0);
    }
    producer.join();
    return sum;
  }

  static void run() throws Exception {
    ExecutorService pool = Executors.newFixedThreadPool(150);
    List<Future<Long>> found = new ArrayList<>();
    for (int i = 0; i < 300; ++i) {
      int seed = i;
      found.add(pool.submit(() -> work(seed)));
    }
    long sum = 0;
    for (Future<Long> future : found) sum = sum * 17 + future.get();
    pool.shutdown();
    System.out.println("pool " + sum);
    long[] results = new long[1500];
    for (int first = 0; first < results.length; first += 50) {
      Thread[] threads = new Thread[50];
      for (int i = 0; i < threads.length; ++i) {
        int number = first + i;
        threads[i] = new Thread(() -> results[number] = ByteBuffer.allocateDirect(number + 1).capacity());
        threads[i].start();
      }
      for (Thread thread : threads) thread.join();
    }
    for (long result : results) sum += result;
    System.out.println("threads " + sum);
    System.out.println("handed over " + handOver());
  }

  public static void main(String[] arguments) {
    try {
      run();
    } catch (Throwable error) {  // the threads of the pool would wait for more for ever
      error.printStackTrace();
      System.exit(1);
    }
    System.exit(21);
  }
}
