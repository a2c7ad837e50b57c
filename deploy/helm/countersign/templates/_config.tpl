{{- /* countersign.yaml: what the form needs, with .Values.config laid over it. */ -}}
{{- define "countersign.configuration" -}}
{{- $config := dict
  "admin" (dict "address" "0.0.0.0:8190" "api" false)
  "ca" (dict "directory" "/var/lib/countersign/ca" "bundle" "/var/run/countersign/ca-bundle.pem")
  "tokens" (dict "directory" "/var/lib/countersign/tokens")
  "unbound" "deny" -}}
{{- if eq .Values.form "shared" -}}
{{- include "countersign.sharedConfiguration" (list . $config) -}}
{{- else -}}
{{- $listeners := dict "forward" (list (dict "address" "127.0.0.1:8180")) -}}
{{- if include "countersign.captures" . -}}
{{- $captured := list (dict "address" "127.0.0.1:15001") -}}
{{- /* Many clusters have no IPv6 in pods, not even ::1, and a listener that cannot be bound ends the start. */ -}}
{{- if .Values.transparent.ipv6 -}}{{- $captured = append $captured (dict "address" "[::1]:15001") -}}{{- end -}}
{{- $_ := set $listeners "transparent" $captured -}}
{{- end -}}
{{- $_ := set $config "listeners" $listeners -}}
{{- $_ := set $config.ca "environment" "/var/run/countersign/env.sh" -}}
{{- $_ := set $config.ca "trust_store" "/var/run/countersign/trust.p12" -}}
{{- end -}}
{{- mergeOverwrite $config (deepCopy .Values.config) | toYaml -}}
{{- end -}}

{{- define "countersign.sharedConfiguration" -}}
{{- $root := index . 0 -}}{{- $config := index . 1 -}}{{- $shared := $root.Values.shared -}}
{{- $tls := dict "certificate" "/run/secrets/countersign-tls/tls.crt" "key" (dict "file" "/run/secrets/countersign-tls/tls.key") -}}
{{- if $shared.clientCaSecret -}}{{- $_ := set $tls "client_ca" "/run/secrets/countersign-clients/ca.crt" -}}{{- end -}}
{{- $_ := set $config "listeners" (dict "forward" (list (dict "address" "0.0.0.0:8180" "tls" $tls))) -}}
{{- $accounts := $shared.serviceAccounts -}}
{{- if eq $accounts.mode "tokenReview" -}}
{{- $review := dict "server" "https://kubernetes.default.svc" "ca_file" "/var/run/secrets/countersign-api/ca.crt" "token" (dict "file" "/var/run/secrets/countersign-api/token") -}}
{{- $_ := set $config "service_accounts" (dict "audience" $accounts.audience "token_review" $review) -}}
{{- else if eq $accounts.mode "issuer" -}}
{{- $_ := set $config "service_accounts" (dict "audience" $accounts.audience "issuer" (required "shared.serviceAccounts.issuer" $accounts.issuer) "jwks" (required "shared.serviceAccounts.jwks" $accounts.jwks)) -}}
{{- end -}}
{{- with $shared.store -}}{{- if .url -}}
{{- $store := dict "url" .url "key" (dict "file" "/run/secrets/countersign-store/key") -}}
{{- if .passwordSecret.name -}}{{- $_ := set $store "password" (dict "file" "/run/secrets/countersign-store/password") -}}{{- end -}}
{{- $_ := set $config "store" $store -}}
{{- /* Health alone opens no store, and the API wants TLS on an address that others reach. */ -}}
{{- $_ := set $config.admin "api" true -}}{{- $_ := set $config.admin "tls" (omit $tls "client_ca") -}}
{{- end -}}{{- end -}}
{{- with $shared.redis -}}{{- if .url -}}
{{- $_ := set $config.tokens "shared" .url -}}
{{- if .passwordSecret.name -}}{{- $_ := set $config.tokens "shared_password" (dict "file" "/run/secrets/countersign-redis/password") -}}{{- end -}}
{{- if .keySecret.name -}}{{- $_ := set $config.tokens "key" (dict "file" "/run/secrets/countersign-redis/key") -}}{{- end -}}
{{- end -}}{{- end -}}
{{- end -}}

{{- /* inject.yaml: what the webhook puts into pods, the same as the sidecar form. */ -}}
{{- define "countersign.injectorConfiguration" -}}
{{- $injector := .Values.injector -}}
address: 0.0.0.0:8443
tls:
  certificate: /run/secrets/countersign-tls/tls.crt
  key: { file: /run/secrets/countersign-tls/tls.key }
namespaces: {{ toJson $injector.namespaces }}
image: {{ include "countersign.image" (list . .Values.image) }}
rules_image: {{ include "countersign.image" (list . .Values.rulesImage) }}
config_map: {{ required "injector.configMap: the ConfigMap with countersign.yaml, in each of the namespaces" $injector.configMap }}
secrets: {{ toJson $injector.secrets }}
{{- if and $injector.onlyWayOut (ne $injector.mode "transparent") }}{{ fail "injector.onlyWayOut goes with injector.mode=transparent" }}{{ end }}
mode: {{ $injector.mode }}
only_way_out: {{ $injector.onlyWayOut }}
{{- with $injector.noProxy }}
no_proxy: {{ toJson . }}
{{- end }}
{{- with $injector.overrides }}
overrides: {{ toJson . }}
{{- end }}
{{- with $injector.tokens }}
tokens:
  {{- range . }}
  - { audience: {{ quote .audience }}, path: {{ quote .path }}, expiration_seconds: {{ default 3600 .expirationSeconds }} }
  {{- end }}
{{- end }}
{{- with .Values.image.pullPolicy }}
image_pull_policy: {{ . }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end -}}
