//! Which services name the action in every request.
//!
//! Protocols of AWS name it in the form field `Action` (query, ec2), in `X-Amz-Target` (json) or in the path
//! (`/service/{service}/operation/{action}` of smithy-rpc-v2-cbor); in the REST protocols method and path stand for it.

/// Whether every API under a signing name speaks only protocols that name their action in the request.
///
/// From the service models of botocore 1.44.5 (`protocol`, `protocols`, `signingName`). A service whose name several APIs
/// share is in only if all of them do, or if the REST APIs among them have nothing at the path `/`, where the others are and
/// where an action is looked for (`iam`, `sagemaker`, `ses`, `servicecatalog`).
pub(super) fn names_actions(service: &str) -> bool {
    NAMING.binary_search(&service).is_ok()
}

/// Sorted, for binary search.
const NAMING: &[&str] = &[
    "IoTSecuredTunneling",
    "acm",
    "acm-pca",
    "aco-automation",
    "airflow-serverless",
    "aoss",
    "application-autoscaling",
    "applicationinsights",
    "apprunner",
    "appstream",
    "arc-region-switch",
    "athena",
    "autoscaling",
    "autoscaling-plans",
    "b2bi",
    "backup-gateway",
    "bcm-dashboards",
    "bcm-data-exports",
    "bcm-pricing-calculator",
    "bcm-recommended-actions",
    "billing",
    "budgets",
    "cassandra",
    "ce",
    "cloud9",
    "cloudcontrolapi",
    "cloudformation",
    "cloudhsm",
    "cloudtrail",
    "cloudwatch",
    "codebuild",
    "codecommit",
    "codeconnections",
    "codedeploy",
    "codepipeline",
    "codestar-connections",
    "cognito-identity",
    "cognito-idp",
    "comprehend",
    "comprehendmedical",
    "compute-optimizer",
    "config",
    "cost-optimization-hub",
    "cur",
    "datapipeline",
    "datasync",
    "dax",
    "devicefarm",
    "directconnect",
    "discovery",
    "dms",
    "ds",
    "dynamodb",
    "ec2",
    "ec2-instance-connect",
    "ecr",
    "ecr-public",
    "ecs",
    "elasticache",
    "elasticbeanstalk",
    "elasticloadbalancing",
    "elasticmapreduce",
    "events",
    "evs",
    "firehose",
    "fms",
    "forecast",
    "frauddetector",
    "freetier",
    "fsx",
    "gamelift",
    "globalaccelerator",
    "glue",
    "health",
    "healthlake",
    "iam",
    "identitystore",
    "importexport",
    "inspector",
    "interconnect",
    "invoicing",
    "iotfleetwise",
    "iotthingsgraph",
    "kendra",
    "kendra-ranking",
    "kinesis",
    "kinesisanalytics",
    "kms",
    "license-manager",
    "lightsail",
    "logs",
    "lookoutequipment",
    "machinelearning",
    "marketplacecommerceanalytics",
    "memorydb",
    "mgh",
    "monitoring",
    "mturk-requester",
    "network-firewall",
    "odb",
    "organizations",
    "osm",
    "partnercentral",
    "partnercentral-account",
    "partnercentral-benefits",
    "partnercentral-channel",
    "partnercentral-selling",
    "pcs",
    "pi",
    "pricing",
    "proton",
    "rds",
    "redshift",
    "redshift-data",
    "redshift-serverless",
    "rekognition",
    "route53-recovery-cluster",
    "route53domains",
    "route53resolver",
    "sagemaker",
    "secretsmanager",
    "servicecatalog",
    "servicediscovery",
    "servicequotas",
    "ses",
    "shield",
    "snowball",
    "sns",
    "sqs",
    "ssm",
    "ssm-contacts",
    "sso",
    "states",
    "storagegateway",
    "sts",
    "support",
    "swf",
    "tagging",
    "textract",
    "timestream",
    "timestream-influxdb",
    "transcribe",
    "transfer",
    "translate",
    "verifiedpermissions",
    "voiceid",
    "waf",
    "waf-regional",
    "wafv2",
    "workmail",
    "workspaces",
    "workspaces-instances",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_nothing_twice() {
        assert!(NAMING.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn query_and_json_services_name_their_actions() {
        for service in [
            "sqs",
            "sns",
            "ec2",
            "sts",
            "dynamodb",
            "organizations",
            "kms",
            "ecs",
            "logs",
            "monitoring",
            "ssm",
            "secretsmanager",
            "kinesis",
            "rds",
            "autoscaling",
            "cloudformation",
            "states",
            "events",
        ] {
            assert!(names_actions(service), "{service}");
        }
    }

    #[test]
    fn rest_services_do_not() {
        for service in ["s3", "s3express", "lambda", "eks", "route53", "cloudfront", "execute-api", "apigateway", "es"]
        {
            assert!(!names_actions(service), "{service}");
        }
    }

    #[test]
    fn one_rest_api_under_a_shared_name_is_enough_to_leave_it_out() {
        for service in ["bedrock", "personalize", "aws-marketplace", "mediastore"] {
            assert!(!names_actions(service), "{service}");
        }
    }

    #[test]
    fn an_unknown_service_does_not() {
        for service in ["", "SQS", "sqs ", "unheard-of", "zzz"] {
            assert!(!names_actions(service), "{service}");
        }
    }
}
