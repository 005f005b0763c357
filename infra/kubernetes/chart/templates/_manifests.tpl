{{/*
The manifests of infra/kubernetes are the one truth: templates read them, and change only what a value asks for.
*/}}

{{/* The objects of a manifest, as a JSON list. Takes: root, path. */}}
{{- define "landfall.objects" -}}
{{- $objects := list -}}
{{- range splitList "\n---\n" (.root.Files.Get .path) -}}
{{- $object := fromYaml . -}}
{{- if hasKey $object "Error" -}}{{- fail (printf "%s: %s" $.path $object.Error) -}}{{- end -}}
{{- if $object -}}{{- $objects = append $objects $object -}}{{- end -}}
{{- end -}}
{{- if not $objects -}}{{- fail (printf "%s is not in this chart, or holds nothing" .path) -}}{{- end -}}
{{- toJson $objects -}}
{{- end -}}

{{/* The forwarder's settings: those of settings.env, with what values say. As JSON. */}}
{{- define "landfall.settings" -}}
{{- $settings := dict -}}
{{- range splitList "\n" (.Files.Get "files/forwarder/settings.env") -}}
{{- if and . (not (hasPrefix "#" .)) -}}
{{- $pair := splitn "=" 2 . -}}
{{- $_ := set $settings $pair._0 $pair._1 -}}
{{- end -}}
{{- end -}}
{{- $target := required "target is not set: give the stack's output EventBusArn, ChangesTopicArn or ChangesQueueArn (--set target=arn:aws:…)" .Values.target -}}
{{- $region := .Values.region -}}
{{- if and (not $region) (hasPrefix "arn:" $target) -}}{{- $region = index (splitList ":" $target) 3 -}}{{- end -}}
{{- $_ := set $settings "LANDFALL_TARGET" $target -}}
{{- $_ := set $settings "AWS_REGION" (required "region is not set, and a queue's URL in target does not contain it: set it (--set region=eu-west-1)" $region) -}}
{{- $_ := set $settings "LANDFALL_CLUSTER" .Values.cluster -}}
{{- $_ := set $settings "LANDFALL_WATCH_SECRETS" (toString .Values.watchSecrets) -}}
{{- toJson $settings -}}
{{- end -}}

{{- define "landfall.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{- end -}}
{{- end -}}
{{- end -}}
