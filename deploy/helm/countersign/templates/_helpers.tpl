{{- define "countersign.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 48 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 48 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "countersign.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "countersign.labels" -}}
{{ include "countersign.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "countersign.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "countersign.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "countersign.configMap" -}}
{{- default (printf "%s-config" (include "countersign.fullname" .)) .Values.existingConfigMap -}}
{{- end -}}

{{- /* An image: (list . .Values.image). */ -}}
{{- define "countersign.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default $root.Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end -}}

{{- /* What the process of Countersign may do: nothing. */ -}}
{{- define "countersign.securityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
readOnlyRootFilesystem: true
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "countersign.probes" -}}
{{- $scheme := "HTTP" -}}{{- if and (eq .Values.form "shared") .Values.shared.store.url -}}{{- $scheme = "HTTPS" -}}{{- end -}}
startupProbe:
  httpGet: { path: /startupz, port: admin, scheme: {{ $scheme }} }
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: { path: /readyz, port: admin, scheme: {{ $scheme }} }
  periodSeconds: 5
  failureThreshold: 2
livenessProbe:
  httpGet: { path: /livez, port: admin, scheme: {{ $scheme }} }
  periodSeconds: 10
  failureThreshold: 6
{{- end -}}

{{- /* Is there a connection that the kernel redirects? */ -}}
{{- define "countersign.captures" -}}
{{- if or (eq .Values.mode "transparent") .Values.onlyWayOut -}}true{{- end -}}
{{- end -}}

{{- /* Variables of Countersign's container: identities, then the operator's. */ -}}
{{- define "countersign.ownEnv" -}}
- { name: TMPDIR, value: /tmp }
{{- with .Values.identity.aws }}{{ if .roleArn }}
- { name: AWS_ROLE_ARN, value: {{ .roleArn | quote }} }
- { name: AWS_WEB_IDENTITY_TOKEN_FILE, value: /var/run/secrets/eks.amazonaws.com/serviceaccount/token }
{{- end }}{{ end }}
{{- with .Values.identity.azure }}{{ if .clientId }}
- { name: AZURE_CLIENT_ID, value: {{ .clientId | quote }} }
- { name: AZURE_TENANT_ID, value: {{ required "identity.azure.tenantId goes with clientId" .tenantId | quote }} }
- { name: AZURE_AUTHORITY_HOST, value: {{ .authorityHost | quote }} }
- { name: AZURE_FEDERATED_TOKEN_FILE, value: /var/run/secrets/azure/tokens/azure-identity-token }
{{- end }}{{ end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "countersign.ownMounts" -}}
- { name: countersign-config, mountPath: /etc/countersign, readOnly: true }
- { name: countersign-state, mountPath: /var/lib/countersign }
- { name: countersign-shared, mountPath: /var/run/countersign }
- { name: countersign-tmp, mountPath: /tmp }
{{- range .Values.secrets }}
- { name: {{ printf "countersign-secret-%s" .name | trunc 63 | trimSuffix "-" }}, mountPath: {{ printf "/var/run/secrets/countersign/%s" .name }}, readOnly: true }
{{- end }}
{{- if .Values.identity.aws.roleArn }}
- { name: countersign-aws-token, mountPath: /var/run/secrets/eks.amazonaws.com/serviceaccount, readOnly: true }
{{- end }}
{{- if .Values.identity.azure.clientId }}
- { name: countersign-azure-token, mountPath: /var/run/secrets/azure/tokens, readOnly: true }
{{- end }}
{{- range .Values.identity.tokens }}
- { name: {{ printf "countersign-token-%s" .name | trunc 63 | trimSuffix "-" }}, mountPath: {{ printf "/var/run/secrets/countersign-tokens/%s" .name }}, readOnly: true }
{{- end }}
{{- end -}}

{{- /* One projected token: (dict "name" "audience" "path" "seconds"). */ -}}
{{- define "countersign.projected" -}}
- name: {{ .name | trunc 63 | trimSuffix "-" }}
  projected:
    sources:
      - serviceAccountToken:
          audience: {{ .audience | quote }}
          expirationSeconds: {{ .seconds }}
          path: {{ .path }}
{{- end -}}

{{- /*
Volumes of every form. The state (the authority's key, replaced refresh tokens) and the shared files are two volumes: the
first is mounted into Countersign's container alone.
*/ -}}
{{- define "countersign.volumes" -}}
{{- $seconds := .Values.identity.expirationSeconds -}}
- name: countersign-config
  configMap: { name: {{ include "countersign.configMap" . }} }
- name: countersign-state
  emptyDir: { medium: Memory, sizeLimit: 16Mi }
- name: countersign-shared
  emptyDir: { medium: Memory, sizeLimit: 16Mi }
- name: countersign-tmp
  emptyDir: { sizeLimit: {{ .Values.tmp.sizeLimit }} }
{{- range .Values.secrets }}
- name: {{ printf "countersign-secret-%s" .name | trunc 63 | trimSuffix "-" }}
  secret:
    secretName: {{ .name }}
    {{- with .items }}
    items:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    # Readable to all who see it, and only Countersign's container does: a stricter mode would need a group for the
    # whole pod.
    defaultMode: 292
{{- end }}
{{- with .Values.identity.aws }}{{ if .roleArn }}
{{ include "countersign.projected" (dict "name" "countersign-aws-token" "audience" .audience "path" "token" "seconds" $seconds) }}
{{- end }}{{ end }}
{{- with .Values.identity.azure }}{{ if .clientId }}
{{ include "countersign.projected" (dict "name" "countersign-azure-token" "audience" .audience "path" "azure-identity-token" "seconds" $seconds) }}
{{- end }}{{ end }}
{{- range .Values.identity.tokens }}
{{ include "countersign.projected" (dict "name" (printf "countersign-token-%s" .name) "audience" .audience "path" "token" "seconds" $seconds) }}
{{- end }}
{{- end -}}
