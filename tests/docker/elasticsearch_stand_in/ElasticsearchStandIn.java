import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.ConcurrentSkipListSet;

/**
 * A stand-in for Elasticsearch, for the tests of images/elasticsearch: no data, no search, no election. Of the real one
 * it has what svcinit configures: it refuses root and settings that it does not know; finds other nodes by the seed
 * hosts of elasticsearch.yml and, where that says so, of unicast_hosts.txt, which it reads again; has a master once
 * enough nodes are there for its first one, or one of them has one; answers at both its ports; and ends as a JVM does.
 */
public final class ElasticsearchStandIn {
    private static final Path CONFIG = Path.of("config");
    private static final int ROUND = 200; // milliseconds between two rounds of discovery
    private static final int PATIENCE = 5000; // milliseconds for another node's answer
    private static final Set<String> KNOWN = Set.of(
            "cluster.name", "node.name", "node.attr.disk", "node.attr.rack", "network.host", "network.publish_host",
            "http.port");
    private static final Set<String> KNOWN_TO_ZEN = Set.of(
            "transport.tcp.port", "discovery.zen.ping.unicast.hosts", "discovery.zen.minimum_master_nodes");
    private static final Set<String> KNOWN_SINCE_7 = Set.of(
            "transport.port", "discovery.seed_hosts", "discovery.seed_providers", "cluster.initial_master_nodes");

    private final Map<String, String> settings = new TreeMap<>();
    private final Set<String> others = new ConcurrentSkipListSet<>(); // addresses of the nodes that are there
    private Set<String> seeds = Set.of();
    private volatile boolean hasMaster;

    public static void main(String[] arguments) throws IOException, InterruptedException {
        if (System.getProperty("user.name").equals("root")) {
            throw new IllegalStateException("can not run as root");
        }
        new ElasticsearchStandIn().run();
    }

    private void run() throws IOException, InterruptedException {
        configure();
        serve();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("stopped")));
        System.out.println("started " + settings.get("node.name"));
        while (true) {
            discover();
            Thread.sleep(ROUND);
        }
    }

    /** Reads elasticsearch.yml as far as svcinit writes it: a setting a line, strings and lists as in JSON. */
    private void configure() throws IOException {
        for (String line : lines("elasticsearch.yml")) {
            String[] parts = line.split(": ", 2);
            settings.put(parts[0], parts[1].replaceAll("[\"\\[\\] ]", ""));
        }
        Set<String> unknown = new TreeSet<>(settings.keySet());
        unknown.removeAll(KNOWN);
        unknown.removeAll(isZen() ? KNOWN_TO_ZEN : KNOWN_SINCE_7);
        if (!unknown.isEmpty()) {
            throw new IllegalArgumentException("unknown settings " + unknown);
        }
    }

    private static List<String> lines(String name) throws IOException {
        return Files.readAllLines(CONFIG.resolve(name)).stream()
                .filter(line -> !line.isBlank() && !line.startsWith("#"))
                .toList();
    }

    private boolean isZen() {
        return settings.containsKey("transport.tcp.port");
    }

    private int transportPort() {
        return Integer.parseInt(settings.get(isZen() ? "transport.tcp.port" : "transport.port"));
    }

    private List<String> list(String name) {
        String text = settings.getOrDefault(name, "");
        return text.isEmpty() ? List.of() : List.of(text.split(","));
    }

    private void serve() throws IOException {
        HttpServer http = HttpServer.create(new InetSocketAddress(Integer.parseInt(settings.get("http.port"))), 0);
        http.createContext("/", exchange -> answer(exchange, 200, String.format(
                "{\"name\": \"%s\", \"cluster_name\": \"%s\", \"disk\": \"%s\", \"heap\": %d}",
                settings.get("node.name"), settings.get("cluster.name"), settings.get("node.attr.disk"),
                Runtime.getRuntime().maxMemory())));
        http.createContext("/_cluster/health", exchange -> answer(exchange, hasMaster ? 200 : 503, String.format(
                "{\"cluster_name\": \"%s\", \"number_of_nodes\": %d}",
                settings.get("cluster.name"), others.size() + 1)));
        http.start();
        ServerSocket transport = new ServerSocket(transportPort());
        new Thread(() -> greet(transport), "transport").start();
    }

    private static void answer(HttpExchange exchange, int status, String body) throws IOException {
        byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
        exchange.sendResponseHeaders(status, bytes.length);
        exchange.getResponseBody().write(bytes);
        exchange.close();
    }

    /** Takes the address of each node that asks, and tells it whether there is a master; a check says nothing. */
    private void greet(ServerSocket transport) {
        while (true) {
            try (Socket other = transport.accept()) {
                String address = converse(other, Boolean.toString(hasMaster));
                if (address != null) {
                    others.add(address);
                }
            } catch (IOException gone) {
                continue;
            }
        }
    }

    private static String converse(Socket other, String said) throws IOException {
        other.setSoTimeout(PATIENCE);
        new PrintStream(other.getOutputStream(), true, StandardCharsets.UTF_8).println(said);
        return new BufferedReader(new InputStreamReader(other.getInputStream(), StandardCharsets.UTF_8)).readLine();
    }

    private void discover() throws IOException {
        Set<String> now = new TreeSet<>(list(isZen() ? "discovery.zen.ping.unicast.hosts" : "discovery.seed_hosts"));
        if (list("discovery.seed_providers").contains("file")) {
            now.addAll(lines("unicast_hosts.txt"));
        }
        if (!now.equals(seeds)) {
            System.out.println("seed hosts " + now);
        }
        seeds = Set.copyOf(now);
        now.addAll(others);
        boolean theyHaveOne = false;
        for (String address : now) {
            theyHaveOne |= ask(address);
        }
        hasMaster |= theyHaveOne || others.size() + 1 >= nodesForTheFirstMaster();
    }

    private boolean ask(String address) {
        int colon = address.lastIndexOf(':');
        try (Socket other = new Socket(address.substring(0, colon), Integer.parseInt(address.substring(colon + 1)))) {
            String hasOne = converse(other, settings.get("network.publish_host") + ":" + transportPort());
            others.add(address);
            return Boolean.parseBoolean(hasOne);
        } catch (IOException gone) {
            others.remove(address);
            return false;
        }
    }

    private int nodesForTheFirstMaster() {
        if (isZen()) {
            return Integer.parseInt(settings.get("discovery.zen.minimum_master_nodes"));
        }
        List<String> initial = list("cluster.initial_master_nodes");
        return initial.contains(settings.get("node.name")) ? initial.size() / 2 + 1 : Integer.MAX_VALUE;
    }
}
