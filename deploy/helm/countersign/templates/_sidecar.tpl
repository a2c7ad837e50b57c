{{- /*
What makes any pod one with Countersign in it. Of a chart that depends on this one:

  initContainers: {{- include "countersign.sidecar" .Subcharts.countersign | nindent 8 }}
  containers:
    - name: main
      env: {{- include "countersign.env" .Subcharts.countersign | nindent 10 }}
      volumeMounts: {{- include "countersign.mounts" .Subcharts.countersign | nindent 10 }}
  volumes: {{- include "countersign.volumes" .Subcharts.countersign | nindent 8 }}
*/ -}}

{{- define "countersign.sidecar" -}}
{{- if include "countersign.captures" . -}}
# Ends before anything else begins: if the rules cannot be written, nothing runs.
- name: countersign-rules
  image: {{ include "countersign.image" (list . .Values.rulesImage) }}
  imagePullPolicy: {{ .Values.rulesImage.pullPolicy }}
  command: [/countersign]
  args:
    - transparent
    - up
    - --tool=nft
    - --exclude-uid=65532
    - --port=15001
    - --ports={{ .Values.transparent.ports }}
    {{- if .Values.onlyWayOut }}
    - --only-way-out
    {{- end }}
    {{- range .Values.transparent.dns }}
    - --dns={{ . }}
    {{- end }}
  securityContext:
    # A capability is of use to root alone unless the file has it too.
    runAsNonRoot: false
    runAsUser: 0
    runAsGroup: 0
    readOnlyRootFilesystem: true
    allowPrivilegeEscalation: false
    capabilities:
      drop: [ALL]
      add: [NET_ADMIN]
    seccompProfile:
      type: RuntimeDefault
  resources:
    requests: { cpu: 10m, memory: 32Mi }
    limits: { memory: 64Mi }
{{ end -}}
# A native sidecar: what comes after it starts when it has started, and it ends when they have.
- name: countersign
  image: {{ include "countersign.image" (list . .Values.image) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  restartPolicy: Always
  args: [serve, --config, /etc/countersign/countersign.yaml]
  workingDir: /var/lib/countersign
  env:
    {{- include "countersign.ownEnv" . | nindent 4 }}
  ports:
    - { name: admin, containerPort: 8190 }
  {{- include "countersign.probes" . | nindent 2 }}
  securityContext:
    {{- include "countersign.securityContext" . | nindent 4 }}
  resources:
    {{- toYaml .Values.resources | nindent 4 }}
  volumeMounts:
    {{- include "countersign.ownMounts" . | nindent 4 }}
{{- end -}}

{{- define "countersign.mounts" -}}
- { name: countersign-shared, mountPath: /var/run/countersign, readOnly: true }
{{- end -}}

{{- /* By these, tools find the proxy (explicit) and the roots they trust: the list is that of `countersign env`. */ -}}
{{- define "countersign.env" -}}
{{- if eq .Values.mode "explicit" -}}
{{- range list "HTTP_PROXY" "HTTPS_PROXY" "ALL_PROXY" "http_proxy" "https_proxy" "all_proxy" "npm_config_proxy" "npm_config_https_proxy" "CARGO_HTTP_PROXY" "GRPC_PROXY" "grpc_proxy" }}
- { name: {{ . }}, value: "http://127.0.0.1:8180" }
{{- end }}
{{- $direct := join "," .Values.noProxy }}
{{- range list "NO_PROXY" "no_proxy" "npm_config_noproxy" }}
- { name: {{ . }}, value: {{ $direct | quote }} }
{{- end }}
- { name: NODE_USE_ENV_PROXY, value: "1" }
{{- end }}
{{- $store := "-Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword=changeit -Djavax.net.ssl.trustStore=/var/run/countersign/trust.p12" }}
{{- if eq .Values.mode "explicit" }}
- { name: JAVA_TOOL_OPTIONS, value: "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=8180 -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=8180 -Dhttp.nonProxyHosts=localhost|127.*|[::1]|*.svc|*.cluster.local {{ $store }}" }
{{- else }}
- { name: JAVA_TOOL_OPTIONS, value: {{ $store | quote }} }
{{- end }}
{{- range list "SSL_CERT_FILE" "CURL_CA_BUNDLE" "REQUESTS_CA_BUNDLE" "AWS_CA_BUNDLE" "OCI_CLI_CERT_BUNDLE" "NODE_EXTRA_CA_CERTS" "GIT_SSL_CAINFO" "PIP_CERT" "npm_config_cafile" "CARGO_HTTP_CAINFO" "BAO_CACERT" "VAULT_CACERT" "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH" "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE" "HTTPLIB2_CA_CERTS" "NIX_SSL_CERT_FILE" "DENO_CERT" }}
- { name: {{ . }}, value: /var/run/countersign/ca-bundle.pem }
{{- end }}
{{- end -}}

{{- /* A container of the workload with all that added: (list . container). Its own variables come last, and win. */ -}}
{{- define "countersign.container" -}}
{{- $root := index . 0 -}}{{- $container := deepCopy (index . 1) -}}
{{- $env := include "countersign.env" $root | fromYamlArray -}}
{{- $own := dict -}}
{{- range default list $container.env }}{{- $_ := set $own .name true -}}{{- end -}}
{{- $kept := list -}}
{{- range $env }}{{- if not (hasKey $own .name) }}{{- $kept = append $kept . -}}{{- end -}}{{- end -}}
{{- $_ := set $container "env" (concat $kept (default list $container.env)) -}}
{{- $_ := set $container "volumeMounts" (concat (include "countersign.mounts" $root | fromYamlArray) (default list $container.volumeMounts)) -}}
{{- if not $container.securityContext }}{{- $_ := set $container "securityContext" $root.Values.workload.securityContext -}}{{- end -}}
{{- if include "countersign.captures" $root -}}
{{- $user := dig "runAsUser" "" $container.securityContext -}}
{{- if or (kindIs "string" $user) (eq (int $user) 65532) -}}
{{- fail (printf "workload.containers: %s needs a securityContext.runAsUser other than 65532, Countersign's own, whose connections are not redirected" $container.name) -}}
{{- end -}}
{{- end -}}
{{- list $container | toYaml -}}
{{- end -}}

{{- /* A pod that the workload's kind wraps. */ -}}
{{- define "countersign.pod" -}}
{{- $root := . -}}
metadata:
  labels:
    {{- include "countersign.selector" . | nindent 4 }}
    app.kubernetes.io/component: workload
    {{- with .Values.workload.labels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    {{- with .Values.workload.annotations }}{{ toYaml . | nindent 4 }}{{ end }}
    # A changed configuration is loaded without this; what needs a restart gets one.
    checksum/config: {{ include "countersign.configuration" . | sha256sum }}
spec:
  serviceAccountName: {{ include "countersign.serviceAccountName" . }}
  automountServiceAccountToken: {{ .Values.workload.automountServiceAccountToken }}
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if ne .Values.workload.kind "Deployment" }}
  restartPolicy: Never
  {{- end }}
  terminationGracePeriodSeconds: {{ .Values.workload.terminationGracePeriodSeconds }}
  initContainers:
    {{- include "countersign.sidecar" . | nindent 4 }}
    {{- range .Values.workload.initContainers }}
    {{- include "countersign.container" (list $root .) | nindent 4 }}
    {{- end }}
  containers:
    {{- range .Values.workload.containers }}
    {{- include "countersign.container" (list $root .) | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "countersign.volumes" . | nindent 4 }}
    {{- with .Values.workload.volumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end -}}
