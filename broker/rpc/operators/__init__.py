"""The methods of BrokerOperator, a file for each kind of them."""
