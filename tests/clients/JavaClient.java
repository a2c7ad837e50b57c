// A plain Java 17 program with java.net.http.HttpClient: it knows nothing of a proxy or of its CA.
//
//   java JavaClient.java URL
//
// Java looks at no proxy variable; system properties do it, and JAVA_TOOL_OPTIONS carries them to an unmodified program:
//
//   JAVA_TOOL_OPTIONS="-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=PORT -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=PORT
//     -Djavax.net.ssl.trustStore=ca.p12 -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword=changeit
//     -Djdk.http.auth.tunneling.disabledSchemes="
//
// The last property is needed only when the proxy asks for a password: the JDK's net.properties disables Basic for
// CONNECT, and an empty value enables it. A proxy user and password come from PROXY_USER and PROXY_PASSWORD, given to
// the proxy's 407 by an Authenticator, the only way Java has (credentials in a proxy address are unknown to it).
//
// CLIENT_METHOD, CLIENT_BODY and CLIENT_HEADERS (a JSON object of strings) shape the request. Prints one JSON line and
// exits 0 when an answer came, whatever its status; exits 1 otherwise. The JVM writes "Picked up JAVA_TOOL_OPTIONS" to
// stderr.
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.net.Authenticator;
import java.net.PasswordAuthentication;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

public class JavaClient {
    public static void main(String[] args) {
        try {
            run(args[0]);
        } catch (Exception error) {
            for (Throwable e = error; e != null; e = e.getCause()) System.err.println(e);
            System.exit(1);
        }
        // Not left to the client's own threads: they would hold the program up.
        System.exit(0);
    }

    static void run(String url) throws Exception {
        HttpClient.Builder builder = HttpClient.newBuilder().connectTimeout(Duration.ofSeconds(30));
        String user = System.getenv("PROXY_USER");
        if (user != null) {
            char[] password = System.getenv().getOrDefault("PROXY_PASSWORD", "").toCharArray();
            builder.authenticator(new Authenticator() {
                @Override
                protected PasswordAuthentication getPasswordAuthentication() {
                    // Never to a server's 401.
                    return getRequestorType() == RequestorType.PROXY ? new PasswordAuthentication(user, password) : null;
                }
            });
        }

        String body = System.getenv("CLIENT_BODY");
        HttpRequest.Builder request = HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(30));
        request.method(
                System.getenv().getOrDefault("CLIENT_METHOD", "GET"),
                body == null || body.isEmpty() ? HttpRequest.BodyPublishers.noBody() : HttpRequest.BodyPublishers.ofString(body));
        // The JDK has no JSON: string pairs are enough here.
        Matcher pairs = Pattern.compile("\"((?:[^\"\\\\]|\\\\.)*)\"\\s*:\\s*\"((?:[^\"\\\\]|\\\\.)*)\"")
                .matcher(System.getenv().getOrDefault("CLIENT_HEADERS", "{}"));
        while (pairs.find()) request.header(unquote(pairs.group(1)), unquote(pairs.group(2)));

        HttpResponse<byte[]> answer = builder.build().send(request.build(), HttpResponse.BodyHandlers.ofByteArray());
        String version = answer.version() == HttpClient.Version.HTTP_2 ? "HTTP/2" : "HTTP/1.1";
        // The JDK hands over a proxy's 407 to CONNECT as the answer when it has no credentials for it, with a null body.
        String text = answer.body() == null ? "" : new String(answer.body(), StandardCharsets.UTF_8);
        // Its own stream: System.out encodes as the locale says, which is ASCII under env -i.
        new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8)
                .println("{\"status\": " + answer.statusCode() + ", \"version\": \"" + version + "\", \"body\": \"" + quote(text) + "\"}");
    }

    static String unquote(String text) {
        return text.replaceAll("\\\\(.)", "$1");
    }

    static String quote(String text) {
        StringBuilder out = new StringBuilder();
        for (char c : text.toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < ' ') out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out.toString();
    }
}
